"""A machine of one folder: started, spoken to, watched and taken down, by whichever driver its spec names."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from host.edges import Edges
from host.errors import DeadlinePassed, Failure, WrongState
from host.exec_request import ExecRequest
from host.stdio import Stdio
from vmm import access, bringup, ports, process
from vmm.spec import FIRMWARE_BOOTS, Forward, MachineSpec, check, replace

if TYPE_CHECKING:
    from vmm.channel import Channel
    from vmm.launch import Launch
    from vmm.qemu_driver import QemuDriver
    from vmm.readiness import Knock


class Machine:
    """The machine whose disk is in `folder` and whose sockets are in `run`."""

    def __init__(self, folder: Path, run: Path, spec: MachineSpec) -> None:
        if spec.boot in FIRMWARE_BOOTS:
            from vmm import firmware

            spec = firmware.completed(spec, folder)
        self.spec: MachineSpec = spec
        self.driver: QemuDriver = _driver(folder, run, spec)
        self.folder, self.run_dir = folder, self.driver.run
        self._knock: Knock | None = None

    # ---- start ----

    def run(self, stdio: Stdio, edges: Edges) -> int:
        """Start, run the command with our descriptors and signals, end the machine; the command's status.

        Stamps t2 to t9. The machine dies with the caller, whatever kills it.
        """
        from vmm import foreground

        return foreground.run(self, stdio, edges)

    def start(self, edges: Edges) -> None:
        """Start detached; returns when the command runs (command mode) or the guest's kernel is up.

        Firmware boots (bios, uefi) have no helper to tell: there it returns when QEMU runs.
        """
        from vmm import phases

        boot = bringup.boot(self, edges, dies_with_us=False)
        try:
            if access.has_helper(self):
                channel = bringup.helper(self, boot)
                if self.spec.command_mode:
                    ports.plug(self.driver, *ports.FILES)
                    channel.start_main(bringup.main_request(self.spec))
            bringup.note_address(self)
            phases.keep(self.run_dir, edges)
            if boot.cloned:
                bringup.note_ready(self)
        except BaseException:
            self.driver.kill()
            self.driver.release()
            raise
        finally:
            boot.close()

    def accelerator(self) -> str:
        """`kvm` or `tcg`: as the spec says, else as the probe of this host found."""
        if self.spec.accel != "auto":
            return self.spec.accel
        if self.spec.arch != os.uname().machine:
            return "tcg"
        from vmm import accelerator

        return accelerator.choose(self.spec.kernel, self.spec.initrd)

    # ---- end ----

    def stop(self, time_s: float = 10.0) -> str:
        """Ask the command (or the guest's init) to end, wait `time_s`, then pull the plug; why it took that,
        or an empty string.
        """
        from vmm import ending

        return ending.stop(self, time_s)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """KILL pulls the plug; another signal goes to the command of a machine in command mode."""
        from vmm import ending

        ending.kill(self, number)

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait until the machine has ended; the status of its command, 137 where it was killed.

        Raises DeadlinePassed after `timeout_s` seconds.
        """
        from vmm import ending

        return ending.wait(self, timeout_s)

    def start_from(self, tag: str) -> str:
        """Start QEMU with stopped processors, load a snapshot with memory into it, and let it go on.

        Returns how the memory was loaded, in the words of `vmm.snapshots.restore`.
        """
        from vmm import hardware, snapshots

        how = replace(self.driver.here(self.accelerator()), paused=True)
        kept = hardware.kept(self.folder, tag)
        in_file = bool(kept and kept.file_bytes)
        if kept:
            how = replace(how, ports=kept.ports, incoming=in_file)
            if kept.is_clone and not self.spec.cloneable:
                how = how.on_empty_file(self.spec.memory_bytes)
            self.driver = _driver(self.folder, self.run_dir, kept.born(self.spec))
        boot = self.driver.boot(how.accel, Edges(), False, how)
        try:
            if kept:
                hardware.plug_again(self, kept)
            loaded = snapshots.load_file(self, tag) if in_file else snapshots.load(self, tag)
            self.driver.resume()
            bringup.note_address(self)
            return loaded
        except BaseException:
            self.driver.kill()
            self.driver.release()
            raise
        finally:
            boot.close()

    def pause(self) -> None:
        """Stop the guest's processors."""
        self.driver.pause()

    def resume(self) -> None:
        """Let the guest's processors go on."""
        self.driver.resume()

    def remove(self) -> None:
        """End it if it runs, and take away what it holds outside its folder."""
        self.driver.kill()
        self.driver.release()
        self.driver.forget()

    # ---- look ----

    def ask(self) -> None:
        """Put the question that `state` reads the answer of: of many machines, all are at it at once."""
        self.driver.ask()
        if not self.spec.command_mode:
            from vmm import readiness

            self._knock = readiness.knock(self.run_dir)

    def state(self) -> str:
        """`created`, `exited`, or what QEMU says: running (in system mode how far it is), paused,
        unresponsive."""
        said = self.driver.state()
        knocked, self._knock = self._knock, None
        if said == "running" and not self.spec.command_mode:
            from vmm import readiness

            return readiness.glance(self.run_dir, knocked)
        if knocked:
            knocked.close()
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
        return self.driver.pid()

    def logs(
        self, follow: bool = False, tail: int | None = None, timestamps: bool = False, out_fd: int = 1
    ) -> None:
        """What the command has said (command mode), or the serial console (system mode)."""
        from vmm import records

        name = "log" if self.spec.command_mode else "serial.log"
        more = (lambda: self.driver.pid() is not None) if follow else None
        with contextlib.suppress(FileNotFoundError):
            if self.spec.command_mode:
                records.show(self.folder / name, out_fd, tail, timestamps, more)
            else:
                records.show_text(self.folder / name, out_fd, tail, more)

    def plan(self) -> str:
        """The command line or the libvirt XML that starts this machine; touches nothing."""
        check(self.spec)
        return self.driver.plan(self.spec.accel if self.spec.accel != "auto" else "tcg")

    def inspect(self) -> dict[str, Any]:
        """What is known of the machine, as JSON data."""
        from vmm import monitor, sidecars, snapshots, usage

        pid = self.pid()
        return {
            "state": self.state(),
            "status": self.status(),
            "trouble": monitor.trouble(self.run_dir / "query") if pid is not None else "",
            "pid": pid,
            "pids": [pid, *sidecars.living(self.run_dir)] if pid is not None else [],
            "cgroups": usage.memory_cgroups(pid) if pid is not None else [],
            "memory": usage.memory_beyond_guest(pid, self.spec.memory_bytes) if pid is not None else {},
            "access": [way.name for way in access.ways(self)] if pid is not None else [],
            "driver": self.spec.driver,
            "accelerator": self.accelerator(),
            "mode": "command" if self.spec.command_mode else "system",
            "sockets": str(self.run_dir),
            "snapshots": [one._asdict() for one in snapshots.listed(self)],
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

        live = self.driver.pid() is not None and any(nic.kind == "user" for nic in self.spec.nics)
        asked = [one for nic in self.spec.nics for one in nic.forwards]
        return [
            (f.host_ip, f.host, f.guest, f.protocol)
            for f in (forwards.listed(self.driver) if live else asked)
        ]

    def here(self) -> Launch:
        """How a start of it would happen on this host."""
        return self.driver.here(self.spec.accel if self.spec.accel != "auto" else "tcg")

    # ---- change ----

    def execute(self, command: str, arguments: dict[str, Any] | None = None, timeout_s: float = 5.0) -> Any:
        """One QMP command that may change the machine; its reply."""
        return self.driver.execute(command, arguments, timeout_s)

    def lend(self, path: Path) -> None:
        """Make one of our files QEMU's own, as with the disks of a start."""
        self.driver.lend(path)

    def update(self, memory_bytes: int | None = None, cpus: float | None = None) -> None:
        """Change memory and processors of the running machine; raises Unsupported with the way that works."""
        from vmm import resize

        resize.update(self, memory_bytes, cpus)

    def forward(self, one: Forward) -> None:
        """Add a port forward to the running machine."""
        from vmm import forwards

        forwards.add(self.driver, one)

    def unforward(self, one: Forward) -> None:
        """Take a port forward away from the running machine."""
        from vmm import forwards

        forwards.remove(self.driver, one)

    def compact(self) -> tuple[int, int]:
        """Give freed space of the disks back to the host; allocated bytes before and after."""
        from vmm import compact

        return compact.compact(self)

    def reset(self) -> None:
        """Press the reset button; returns when the guest is up again, its command begun anew."""
        self.driver.reset()
        if access.has_helper(self):
            bringup.again(self)

    # ---- inside ----

    @contextlib.contextmanager
    def channel(self, timeout_s: float = 10.0) -> Iterator[Channel]:
        """A channel to the guest helper that nobody else uses, greeted; raises Failure where there is
        none."""
        from vmm.channel import Channel
        from vmm.launch import CHANNELS

        if self.driver.pid() is None:
            raise WrongState(
                "cannot reach", self.folder.name, "it does not run", f"vmm start {self.folder.name}"
            )
        for name in CHANNELS:
            with contextlib.ExitStack() as held:
                try:
                    held.enter_context(ports.claim(self.run_dir, name))
                except DeadlinePassed:
                    continue
                ports.plug(self.driver, name)
                channel = held.enter_context(Channel(process.call(self.run_dir / name)))
                channel.hello(timeout_s)
                yield channel
                return
        raise Failure(
            "cannot reach", self.folder.name, "all its channels are in use", "wait for another vmm exec"
        )

    def exec(self, request: ExecRequest, stdio: Stdio) -> int:
        """Run a command in the running machine by the first way that lets us in (vmm.access); its status."""
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
