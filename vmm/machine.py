"""A machine of one folder: started, spoken to, watched and taken down, by whichever driver its spec names."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from host import paths
from host.edges import Edges
from host.errors import DeadlinePassed, Failure, Unsupported, WrongState
from host.exec_request import ExecRequest
from host.stdio import Stdio
from vmm import admission, process, records
from vmm.boot import Boot
from vmm.channel import Channel, HungUp
from vmm.spec import FIRMWARE_BOOTS, Forward, MachineSpec, check

if TYPE_CHECKING:
    from vmm.launch import Launch
    from vmm.qemu_driver import QemuDriver

_POWEROFF_S = 15.0
_KILLED = 137
# QEMU's user network answers names at this address (slirp); a guest without a DHCP client must be told.
USER_NETWORK_DNS = b"nameserver 10.0.2.3\n"


def boot_timeout_s() -> float:
    """How long a guest may take to its marker: `$VMM_BOOT_TIMEOUT_S`, else two minutes."""
    return float(os.environ.get("VMM_BOOT_TIMEOUT_S", "120"))


class Machine:
    """The machine whose disk is in `folder` and whose sockets are in `run`."""

    def __init__(self, folder: Path, run: Path, spec: MachineSpec) -> None:
        if spec.boot in FIRMWARE_BOOTS:
            from vmm import firmware

            spec = firmware.completed(spec, folder)
        self.folder, self.run_dir, self.spec = folder, run, spec
        self._driver = _driver(folder, run, spec)

    # ---- start ----

    def run(self, stdio: Stdio, edges: Edges) -> int:
        """Start, run the command with our descriptors and signals, end the machine; the command's status.

        Stamps t2 to t9. The machine dies with the caller, whatever kills it.
        """
        boot = self._boot(edges, dies_with_us=True)
        try:
            if self.spec.command_mode:
                status = self._command(boot, stdio, edges)
            else:
                if boot.cloned:
                    self._helper(boot)
                status = self._console_until_end(boot, stdio, edges)
        finally:
            boot.close()
            self._driver.kill()
            self._driver.release()
        edges.mark("t9")
        return status

    def start(self, edges: Edges) -> None:
        """Start detached; returns when the command runs (command mode) or the guest's kernel is up.

        Firmware boots (bios, uefi) have no helper to tell: there it returns when QEMU runs.
        """
        boot = self._boot(edges, dies_with_us=False)
        try:
            if self.spec.kernel and self.spec.root:  # a kernel with its own ramdisk brings no helper
                channel = self._helper(boot)
                if self.spec.command_mode:
                    channel.start_main(self._main())
            self._note_ssh_port()
        except BaseException:
            self._driver.kill()
            self._driver.release()
            raise
        finally:
            boot.close()

    def _boot(self, edges: Edges, dies_with_us: bool) -> Boot:
        check(self.spec)
        edges.mark("t1")
        accel = self.accelerator()
        if self.spec.template:
            from vmm import clones

            boot = clones.boot(self._driver, accel, edges, dies_with_us, boot_timeout_s())
            if boot is not None:
                return boot
        place = admission.take(paths.ensure(self.run_dir.parent), boot_timeout_s())
        try:
            boot = self._driver.boot(accel, edges, dies_with_us)
        except BaseException:
            os.close(place)
            raise
        boot.place = place
        return boot

    def _helper(self, boot: Boot) -> Channel:
        """The greeted channel; a clone is renewed before anything else can run in it."""
        channel = boot.await_helper(boot_timeout_s())
        if boot.cloned:
            from vmm import clones

            clones.renew(channel, self.spec)
            assert boot.monitor is not None
            clones.open_to_host(boot.monitor, self.spec)
        if self.spec.command_mode and any(nic.kind == "user" for nic in self.spec.nics):
            channel.put("/etc/resolv.conf", USER_NETWORK_DNS)
        if self.spec.command_mode and any(nic.kind == "network" for nic in self.spec.nics):
            from vmm import networking

            channel.put("/etc/resolv.conf", networking.resolv_conf(self.spec, self.folder.name).encode())
        return channel

    def accelerator(self) -> str:
        """`kvm` or `tcg`: as the spec says, else as the probe of this host found."""
        if self.spec.accel != "auto":
            return self.spec.accel
        if self.spec.arch != os.uname().machine:
            return "tcg"
        from vmm import accelerator

        return accelerator.choose(self.spec.kernel, self.spec.initrd)

    def _note_ssh_port(self) -> None:
        """Keep which port of the host leads to sshd: `vmm ls` must not ask QEMU for it each time."""
        if self.spec.reaches_ssh:
            from vmm import forwards

            (self.run_dir / "ssh-port").write_text(str(forwards.ssh_port(self._driver)))

    def _main(self, stdio: Stdio | None = None) -> ExecRequest:
        command = self.spec.command
        request = ExecRequest(command.argv, command.env, command.cwd, command.user)
        return request._replace(tty=stdio.tty, interactive=stdio.interactive) if stdio else request

    def _command(self, boot: Boot, stdio: Stdio, edges: Edges) -> int:
        channel = self._helper(boot)
        with self._log() as log:

            def on_output(stream: int, data: bytes) -> None:
                edges.mark("t8")
                if log is not None:
                    os.write(log, records.encode(stream, time.time_ns(), data))

            status = self._converse(channel, stdio, on_output)
        if not self.spec.ephemeral:
            (self.folder / "status").write_text(f"exit {status}\n")
            self._power_off(boot, channel)
        return status

    def _converse(self, channel: Channel, stdio: Stdio, on_output: Any) -> int:
        from vmm import frames

        try:
            return channel.run(self._main(stdio), stdio, flags=frames.MAKE_CWD, on_output=on_output)
        except HungUp:
            raise Failure(
                "the machine ended before its command did",
                self.folder.name,
                "QEMU is gone; the end of its words and console is kept",
                f"vmm logs {self.folder.name}",
            ) from None

    @contextlib.contextmanager
    def _log(self) -> Iterator[int | None]:
        if self.spec.ephemeral:
            yield None
            return
        fd = os.open(self.folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            yield fd
        finally:
            os.close(fd)

    def _power_off(self, boot: Boot, channel: Channel) -> None:
        """The guest's own end, so that its file system is whole; the caller kills what is left."""
        channel.poweroff()
        with contextlib.suppress(DeadlinePassed):
            process.wait_gone(boot.pid, _POWEROFF_S)

    def _console_until_end(self, boot: Boot, stdio: Stdio, edges: Edges) -> int:
        from vmm import console

        boot.close()
        console.attach(self.run_dir / "serial", stdio, on_output=lambda: edges.mark("t4"))
        return 0

    # ---- end ----

    def stop(self, time_s: float = 10.0) -> None:
        """Ask the command (or the guest's init) to end, wait `time_s`, then pull the plug."""
        pid = self._driver.pid()
        if pid is None:
            self._driver.release()
            return
        with contextlib.suppress(Failure):
            self._ask_to_end()
        try:
            process.wait_gone(pid, time_s)
            self._note_status(0 if not self.spec.command_mode else None)
        except DeadlinePassed:
            self._end_hard(pid)
            self._note_status(_KILLED)
        self._driver.kill()
        self._driver.release()

    def _note_status(self, status: int | None) -> None:
        """Keep how it ended where the guest itself could not say so."""
        if status is not None and self.status() is None:
            (self.folder / "status").write_text(f"exit {status}\n")

    def _ask_to_end(self) -> None:
        if self._driver.state() == "paused":
            self._driver.resume()
        if self.spec.command_mode:
            with self.channel() as channel:
                channel.signal_main(signal.SIGTERM)
            return
        try:
            with self.channel() as channel:
                channel.poweroff()
        except Failure:
            self._driver.press_power()

    def _end_hard(self, pid: int) -> None:
        """Kill the command inside first, so that its status is told and its files are written."""
        if not self.spec.command_mode:
            return
        with contextlib.suppress(Failure), self.channel() as channel:
            channel.signal_main(signal.SIGKILL)
            process.wait_gone(pid, 3.0)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """KILL pulls the plug; another signal goes to the command of a machine in command mode."""
        if number == signal.SIGKILL:
            self._driver.kill()
            self._note_status(_KILLED)
            self._driver.release()
        elif self.spec.command_mode:
            with self.channel() as channel:
                channel.signal_main(number)
        else:
            hint = "vmm stop asks it to end, vmm kill pulls the plug, vmm exec NAME kill ... works inside"
            raise Unsupported(
                "a machine in system mode takes no signal but KILL", self.folder.name, hint=hint
            )

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait until the machine has ended; the status of its command, 137 where it was killed.

        Raises DeadlinePassed after `timeout_s` seconds.
        """
        pid = self._driver.pid()
        if pid is not None:
            process.wait_gone(pid, timeout_s if timeout_s is not None else 10 * 365 * 86400.0)
        status = self.status()
        if status is not None:
            return status
        return _KILLED if self.spec.command_mode else 0

    def start_from(self, tag: str) -> None:
        """Start QEMU with stopped processors, load a snapshot with memory into it, and let it go on."""
        from vmm import snapshots

        how = replace(self._driver.here(self.accelerator()), paused=True)
        boot = self._driver.boot(how.accel, Edges(), False, how)
        try:
            snapshots.load(self, tag)
            self._driver.resume()
        except BaseException:
            self._driver.kill()
            self._driver.release()
            raise
        finally:
            boot.close()

    def pause(self) -> None:
        """Stop the guest's processors."""
        self._driver.pause()

    def resume(self) -> None:
        """Let the guest's processors go on."""
        self._driver.resume()

    def remove(self) -> None:
        """End it if it runs, and take away what it holds outside its folder."""
        self._driver.kill()
        self._driver.release()
        self._driver.forget()

    # ---- look ----

    def state(self) -> str:
        """`created`, `exited`, or what QEMU says: running (in system mode how far it is), paused,
        unresponsive."""
        said = self._driver.state()
        if said == "running" and not self.spec.command_mode:
            from vmm import readiness

            return readiness.glance(self.run_dir)
        if said == "exited" and not (self.folder / "serial.log").exists():
            return "created"
        return said

    def wait_for(self, condition: str, timeout_s: float | None = None, edges: Edges | None = None) -> None:
        """Wait until the machine is running, ssh-ready, cloud-init-done or exited; stamps t8 for ssh."""
        from vmm import readiness

        readiness.wait_for(self, condition, timeout_s, edges)

    def status(self) -> int | None:
        """The exit status of the command, or None where nobody saw it (killed, still running, system
        mode)."""
        try:
            words = (self.folder / "status").read_text().split()
        except OSError:
            return None
        return int(words[1]) if len(words) == 2 and words[0] == "exit" and words[1].isdigit() else None

    def pid(self) -> int | None:
        """QEMU's pid on this host, or None."""
        return self._driver.pid()

    def logs(
        self, follow: bool = False, tail: int | None = None, timestamps: bool = False, out_fd: int = 1
    ) -> None:
        """What the command has said (command mode), or the serial console (system mode)."""
        name = "log" if self.spec.command_mode else "serial.log"
        more = (lambda: self._driver.pid() is not None) if follow else None
        with contextlib.suppress(FileNotFoundError):
            if self.spec.command_mode:
                records.show(self.folder / name, out_fd, tail, timestamps, more)
            else:
                records.show_text(self.folder / name, out_fd, tail, more)

    def plan(self) -> str:
        """The command line or the libvirt XML that starts this machine; touches nothing."""
        check(self.spec)
        return self._driver.plan(self.spec.accel if self.spec.accel != "auto" else "tcg")

    def inspect(self) -> dict[str, Any]:
        """What is known of the machine, as JSON data."""
        from vmm import monitor, usage

        pid = self.pid()
        return {
            "state": self.state(),
            "status": self.status(),
            "trouble": monitor.trouble(self.run_dir / "query") if pid is not None else "",
            "pid": pid,
            "pids": [pid] if pid is not None else [],
            "cgroups": usage.memory_cgroups(pid) if pid is not None else [],
            "driver": self.spec.driver,
            "accelerator": self.accelerator(),
            "mode": "command" if self.spec.command_mode else "system",
            "sockets": str(self.run_dir),
            "serial_log": str(self.folder / "serial.log"),
            "spec": self.spec.to_record(),
        }

    def explain(self) -> str:
        """The plan, and what of it runs now: processes, threads, cgroup, slow boot phases."""
        from vmm import explain

        return explain.explain(self)

    def stats(self) -> dict[str, Any]:
        """What it uses now: cpu_ns, memory_bytes, block bytes ... (`vmm.usage`)."""
        from vmm import usage

        return usage.stats(self)

    def top(self) -> list[list[str]]:
        """The processes inside, header first."""
        from vmm import inside

        return inside.top(self)

    def ports(self) -> list[tuple[str, int, int, str]]:
        """The published ports: host address, host port, guest port, protocol; QEMU's own list while it
        runs."""
        from vmm import forwards

        live = self._driver.pid() is not None and any(nic.kind == "user" for nic in self.spec.nics)
        asked = [one for nic in self.spec.nics for one in nic.forwards]
        return [
            (f.host_ip, f.host, f.guest, f.protocol)
            for f in (forwards.listed(self._driver) if live else asked)
        ]

    def here(self) -> Launch:
        """How a start of it would happen on this host."""
        return self._driver.here(self.spec.accel if self.spec.accel != "auto" else "tcg")

    # ---- change ----

    def execute(self, command: str, arguments: dict[str, Any] | None = None, timeout_s: float = 5.0) -> Any:
        """One QMP command that may change the machine; its reply."""
        return self._driver.execute(command, arguments, timeout_s)

    def lend(self, path: Path) -> None:
        """Make one of our files QEMU's own, as with the disks of a start."""
        self._driver.lend(path)

    def update(self, memory_bytes: int | None = None, cpus: float | None = None) -> None:
        """Change memory and processors of the running machine; raises Unsupported with the way that works."""
        from vmm import resize

        resize.update(self, memory_bytes, cpus)

    def forward(self, one: Forward) -> None:
        """Add a port forward to the running machine."""
        from vmm import forwards

        forwards.add(self._driver, one)

    def unforward(self, one: Forward) -> None:
        """Take a port forward away from the running machine."""
        from vmm import forwards

        forwards.remove(self._driver, one)

    def compact(self) -> tuple[int, int]:
        """Give freed space of the disks back to the host; allocated bytes before and after."""
        from vmm import compact

        return compact.compact(self)

    def reset(self) -> None:
        """Press the reset button."""
        self._driver.reset()

    # ---- inside ----

    @contextlib.contextmanager
    def channel(self, timeout_s: float = 10.0) -> Iterator[Channel]:
        """A channel to the guest helper that nobody else uses, greeted; raises Failure where there is
        none."""
        from host.records import lock
        from vmm.launch import CHANNELS

        if self._driver.pid() is None:
            raise WrongState(
                "cannot reach", self.folder.name, "it does not run", f"vmm start {self.folder.name}"
            )
        for name in CHANNELS[1:]:
            with contextlib.ExitStack() as held:
                try:
                    held.enter_context(lock(self.run_dir / f"{name}.lock", wait_s=0))
                except DeadlinePassed:
                    continue
                channel = held.enter_context(Channel(process.call(self.run_dir / name)))
                channel.hello(timeout_s)
                yield channel
                return
        raise Failure(
            "cannot reach", self.folder.name, "all its channels are in use", "wait for another vmm exec"
        )

    def exec(self, request: ExecRequest, stdio: Stdio) -> int:
        """Run a command in the running machine: by its helper, else SSH, else the guest agent; its exit
        status."""
        if self.spec.kernel:
            with self.channel() as channel:
                return channel.run(request, stdio)
        from vmm import access

        return access.execute(self, request, stdio)

    def exec_detached(self, request: ExecRequest) -> None:
        """Start a command in the running machine; returns once it runs."""
        from vmm import inside

        inside.exec_detached(self, request)

    def copy_in(self, source: Path, target: str) -> None:
        """Copy a file or a tree of the host into the running machine."""
        from vmm import inside

        inside.copy_in(self, source, target)

    def copy_out(self, source: str, target: Path) -> None:
        """Copy a file or a tree out of the running machine."""
        from vmm import inside

        inside.copy_out(self, source, target)

    def attach(self, stdio: Stdio, detach_keys: bytes = b"", whole: bool = False) -> int:
        """Join the serial console (system mode), or what the command says from now on (command mode)."""
        from vmm import console

        if self.spec.command_mode:
            self.logs(follow=True, tail=None if whole else 0, out_fd=stdio.stdout)
            return self.wait(10.0)
        console.attach(self.run_dir / "serial", stdio, detach_keys or console.DETACH_KEYS)
        return 0


def _driver(folder: Path, run: Path, spec: MachineSpec) -> QemuDriver:
    if spec.driver == "libvirt":
        from vmm.libvirt_driver import LibvirtDriver

        return LibvirtDriver(folder, run, spec)
    from vmm.qemu_driver import QemuDriver

    return QemuDriver(folder, run, spec)
