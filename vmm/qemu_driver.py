"""The qemu driver: one QEMU process, driven over QMP, without a daemon."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from host import paths
from host.edges import Edges
from host.errors import HostUnfit, WrongState
from vmm import confine, launch, networking, ports, process, state_pipe
from vmm.launch import Launch
from vmm.qemu_argv import argv, joined
from vmm.spec import MachineSpec, replace

if TYPE_CHECKING:
    from vmm.boot import Boot
    from vmm.leash import Leash
    from vmm.monitor import Monitor

_GREETING_S = 20.0
# What QEMU writes in the instance's folder; it opens them itself, after it has become its own user.
_WRITTEN = ("serial.log", "log", "status")


class QemuDriver:
    """One machine by the qemu driver; every call finds the machine's state anew."""

    def __init__(self, folder: Path, run: Path, spec: MachineSpec) -> None:
        self.folder, self.run, self.spec = folder, run, spec
        self._boot: Boot | None = None
        self._asked: socket.socket | None = None
        self._short_lived = False
        self._leash: Leash | None = None
        self.has_cgroup = True

    # ---- plan ----

    def plan(self, accel: str) -> str:
        """The command line that starts this machine, as a shell would take it."""
        words = argv(self.spec, launch.here(self.run, self.folder, accel, self.spec.arch))
        return " \\\n  ".join(joined(words))

    # ---- start ----

    def boot(self, accel: str, edges: Edges, dies_with_us: bool, how: Launch | None = None) -> Boot:
        """Start QEMU and return the Boot that watches it come up.

        Raises WrongState when it runs already, Failure with QEMU's words when it refuses.
        """
        if self.pid() is not None:
            raise WrongState("cannot start", self.folder.name, "its QEMU runs already")
        try:
            return self._start(accel, edges, dies_with_us, how)
        except BaseException:
            self.release()  # sockets, pid file, places on networks
            raise

    def _start(self, accel: str, edges: Edges, dies_with_us: bool, how: Launch | None) -> Boot:
        paths.ensure(self.run, 0o755)
        # Such a one joins no cgroup: that holds a process up that makes its threads just then, for 10 ms (an
        # RCU grace period)
        self._short_lived = dies_with_us and self.spec.ephemeral
        who = confine.confinement(self._needs(), accel == "kvm")
        self._lay_out(who)
        if how and how.memory_file:
            who.give(Path(how.memory_file))  # of a template too: it may have been frozen by a QEMU of root's
        how = how or launch.here(self.run, self.folder, accel, self.spec.arch)
        listeners = process.listen(self.run, self._sockets(how.ports))
        joined = networking.Joined(self.spec)
        state = state_pipe.reader(how.state) if how.state else -1
        leash = self._leash_for(dies_with_us, how)
        try:
            self._start_sidecars(who)
            joined = networking.join(self.spec, self.folder.name, taps=True)
            inherited = (*how.fds, *joined.fds, *((name, one.fileno()) for name, one in listeners.items()))
            inherited += (("state", state),) if how.state else ()
            words = argv(joined.spec, replace(how, fds=inherited))
            clients = {name: process.call(self.run / name) for name in ("ctl", "serial", "guest")}
            edges.mark("t2")
            prefix = who.prefix(dies_with_us, leash.theirs if leash else -1)
            lent = [fd for _, fd in inherited] + ([leash.theirs] if leash else [])
            pid = self._spawn([*prefix, *words], lent)
        except BaseException:
            if leash:
                leash.let_go()
            raise
        finally:
            joined.close()
            for one in listeners.values():
                one.close()
            if state >= 0:
                os.close(state)
        return self._watched(pid, clients, edges, state, leash)

    def _leash_for(self, dies_with_us: bool, how: Launch) -> Leash | None:
        """What ends with us a machine that is to outlive us, but not before it is what was asked for: one
        without its command, or a clone that is still as it was frozen.

        Not one that comes in from another QEMU: there a mark in the run directory tells what becomes of it.
        """
        on_its_way = how.memory_private or (self.spec.command_mode and not (how.incoming or how.paused))
        if dies_with_us or not on_its_way:
            return None
        from vmm.leash import Leash

        return Leash()

    def _watched(
        self, pid: int, clients: dict[str, socket.socket], edges: Edges, state: int, leash: Leash | None
    ) -> Boot:
        from vmm import monitor  # QEMU starts meanwhile
        from vmm.boot import Boot

        talk = monitor.Monitor(clients["ctl"], self.folder.name, self.run / monitor.JOURNAL)
        boot = Boot(self.folder, edges, pid, clients["guest"], clients["serial"], talk, process.reap)
        if leash:
            boot.at_close(leash.let_go)
        boot.own(self.run)
        self._boot = boot
        boot.exposed = process.expose(pid)
        try:
            if state >= 0:  # QEMU's descriptor has the same number
                talk.post(launch.loading(f"fd:{state}"))
            if self.has_cgroup and not self._short_lived:
                self._join_cgroup(pid)
            boot.await_monitor(_GREETING_S)
        except BaseException:
            boot.close()
            process.end(pid)
            raise
        return boot

    def adopt(self, boot: Boot, leash: Leash, dies_with_us: bool) -> None:
        """Take over a QEMU that somebody started beforehand, and whose run directory is ours by now."""
        self._boot, self._short_lived = boot, dies_with_us and self.spec.ephemeral
        boot.own(self.run)
        if dies_with_us:
            self._leash = leash
        else:
            boot.at_close(leash.let_go)
        if not self._short_lived:
            self._join_cgroup(boot.pid)

    @property
    def _has_sidecars(self) -> bool:
        return self.spec.tpm or any(share.kind == "virtiofs" for share in self.spec.shares)

    def _start_sidecars(self, who: confine.Confinement) -> None:
        if self._has_sidecars:
            from vmm import sidecars

            sidecars.start(self.spec, self.run, self.folder, who)

    def _spawn(self, words: list[str], inherit: list[int]) -> int:
        with contextlib.suppress(FileNotFoundError):
            (self.folder / "qemu.log").unlink()
        try:
            return process.spawn(words, inherit, self.folder / "qemu.log", self._short_lived)
        except FileNotFoundError:
            raise HostUnfit("cannot start the machine", why=f"{words[0]} is not installed") from None

    def _sockets(self, given: tuple[str, ...] = ()) -> tuple[str, ...]:
        """The names of its sockets at birth, where it takes over the `given` ports or has its own."""
        own = (name for name in given or ports.born(self.spec) if name not in ports.FILES)
        return (*launch.SOCKETS, *own)

    def _needs(self) -> list[str]:
        spec = self.spec
        named = [spec.kernel, spec.initrd, spec.firmware, spec.seed, *(disk.path for disk in spec.disks)]
        return [str(self.run / "pid"), str(self.folder / "log"), *(path for path in named if path)]

    def _lay_out(self, who: confine.Confinement) -> None:
        """Make the files that QEMU writes, and give it those and the instance's own disks; never the
        store's."""
        if self.spec.boot == "uefi":
            from vmm import firmware

            firmware.lay_out(self.spec)
        with contextlib.suppress(FileNotFoundError):
            (self.folder / "status").unlink()
        for path in (*(self.folder / name for name in _WRITTEN), self.run / "pid"):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
            who.give(path, 0o644)
        for name in ("memory", *self._own_disks()):
            path = self.folder / name
            if path.exists():
                who.give(path)

    def _own_disks(self) -> list[str]:
        named = [disk.path for disk in self.spec.disks if not disk.read_only]
        named += [self.spec.firmware_vars, self.spec.seed]  # a seed may hold secrets: private, like a disk
        return [os.path.basename(path) for path in named if os.path.dirname(path) == str(self.folder)]

    @property
    def cgroup_name(self) -> str:
        """The name of its cgroup: the home's digest keeps two homes on one host apart."""
        return f"{self.run.parent.name}-{self.folder.name}"

    def _join_cgroup(self, pid: int) -> None:
        """A cgroup of its own, for accounting; a host or a user without one does without."""
        from host.errors import Failure
        from host.linux.cgroup import Cgroup, Limits

        try:
            group = Cgroup(self.cgroup_name)
            group.create(Limits(pids=-1))
            group.add(pid)
        except (Failure, OSError):
            return

    # ---- life ----

    def pid(self) -> int | None:
        """QEMU's pid, or None when it does not run."""
        return process.living(self.run / "pid")

    def ask(self) -> None:
        """Put the question that `state` reads the answer of."""
        from vmm import monitor

        with contextlib.suppress(OSError):
            self._asked = monitor.ask(self.run / "query")

    def state(self) -> str:
        """What QEMU says of itself: running, paused or unresponsive; exited where it is gone."""
        if self.pid() is None:
            return "exited"
        from vmm import monitor

        asked, self._asked = self._asked, None
        said = monitor.state(self.run / "query", asked=asked)
        return "unresponsive" if said == "exited" else said

    @contextlib.contextmanager
    def control(self, timeout_s: float = 5.0) -> Iterator[Monitor]:
        """The control monitor: the start's own while that lasts, for QEMU greets one client at a time.

        Raises WrongState when the machine does not run, DeadlinePassed when another command keeps it.
        """
        if self._boot is not None and self._boot.monitor is not None:
            yield self._boot.monitor
            return
        try:
            from vmm import monitor

            talk = monitor.connect(self.run / "ctl", timeout_s, self.run / monitor.JOURNAL)
        except (FileNotFoundError, ConnectionRefusedError):
            raise self._unreachable() from None
        with talk:
            yield talk

    def _unreachable(self) -> WrongState:
        name = self.folder.name
        if self.pid() is None:
            return WrongState("cannot reach", name, "its QEMU does not run", f"vmm start {name}")
        why = f"its QEMU runs, but somebody took its socket {self.run / 'ctl'} away"
        return WrongState("cannot reach", name, why, f"vmm restart {name} makes it anew")

    def execute(self, command: str, arguments: dict[str, Any] | None = None, timeout_s: float = 5.0) -> Any:
        """One QMP command that may change the machine; its reply."""
        with self.control(timeout_s) as control:
            return control.execute(command, arguments, timeout_s)

    def hmp(self, line: str) -> str:
        """One line to the human monitor: for what QMP 7.2 has no command, such as port forwards."""
        return str(self.execute("human-monitor-command", {"command-line": line})).strip()

    def here(self, accel: str) -> Launch:
        """The launch of this machine on this host."""
        return launch.here(self.run, self.folder, accel, self.spec.arch)

    def lend(self, path: Path) -> None:
        """Make a file QEMU's own."""
        confine.confinement(self._needs(), False).give(path)

    def netdev(self, number: int) -> str:
        """QEMU's name of a network card's backend."""
        return f"net{number}"

    def pause(self) -> None:
        """Stop the guest's processors."""
        self.execute("stop")

    def resume(self) -> None:
        """Let the guest's processors go on."""
        self._settle_migration()
        self.execute("cont")

    def _settle_migration(self, goes_on: bool = True) -> None:
        """Finish or undo what a killed `vmm migrate` left."""
        if os.path.exists(f"{self.run.parent}/.move-{self.run.name}"):
            from vmm import migrate

            migrate.settle(self, goes_on)

    def press_power(self) -> None:
        """Press the ACPI power button."""
        self.execute("system_powerdown")

    def reset(self) -> None:
        """Press the reset button."""
        # Where we loaded its kernel a guest that resets itself has ended (-no-reboot); this reset is no end.
        if self.spec.kernel:
            self.execute("set-action", {"reboot": "reset"})
        self.execute("system_reset")
        if self.spec.kernel:
            self.execute("set-action", {"reboot": "shutdown"})

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send QEMU a signal; with KILL, see it gone."""
        self._settle_migration(goes_on=number != signal.SIGKILL)
        pid = self.pid()
        if pid is None:
            return
        if number == signal.SIGKILL:
            process.end(pid)
        else:
            process.kill(pid, number)

    def forget(self) -> None:
        """Remove what the driver keeps beyond a run."""

    def release(self) -> None:
        """Remove what dies with a run: sockets, pid file, cgroup, places on networks."""
        networking.leave(self.spec, self.folder.name)
        if self._leash is not None:
            self._leash.let_go()
        if self._has_sidecars:
            from vmm import sidecars

            sidecars.end(sidecars.living(self.run))
        with contextlib.suppress(FileNotFoundError):
            for path in self.run.iterdir():
                path.unlink()
            self.run.rmdir()
        if not self._short_lived:
            from host.linux.cgroup import Cgroup

            with contextlib.suppress(OSError):
                Cgroup(self.cgroup_name).remove()
