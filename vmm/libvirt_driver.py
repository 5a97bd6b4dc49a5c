"""The libvirt driver: the same spec as a domain of qemu:///system, qemu:///session or qemu+ssh://HOST/system.

QEMU's pid and its status come from the same pidfile and query socket as with the qemu driver: a domain that
virsh stopped, paused or destroyed behind our back is shown as it is, and `vmm ls` pays for no libvirt
connection.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import libvirt

from host import paths
from host.edges import Edges
from host.errors import DeadlinePassed, Failure, HostUnfit, Unsupported
from vmm import confine, domain_xml, launch, libvirt_daemon, monitor, networking, process
from vmm.boot import Boot
from vmm.launch import Launch
from vmm.qemu_driver import QemuDriver
from vmm.spec import MachineSpec, replace

RUN = "run"
_LONGEST_PATH = 107  # sun_path holds 108 bytes (unix(7))


class LibvirtDriver(QemuDriver):
    """One machine as a libvirt domain; transient and bound to us in the foreground, else defined."""

    def __init__(self, folder: Path, run: Path, spec: MachineSpec) -> None:
        # libvirt would make up a UUID, and then refuse the same name with another one at the next start.
        super().__init__(folder, run, replace(spec, uuid=spec.uuid or str(uuid5(NAMESPACE_URL, str(folder)))))
        self._link: libvirt.virConnect | None = None
        self._mark = (paths.run_dir() if run == folder / RUN else run.parent).name[:6]
        if spec.autostart:
            self.run = folder / RUN  # libvirt starts it where nobody has made /run/vmm since the host's boot

    @property
    def uri(self) -> str:
        """The libvirt that has the machine."""
        return self.spec.uri or libvirt_daemon.default_uri()

    @property
    def domain_name(self) -> str:
        """Its name for virsh: the home's digest keeps two homes on one host apart."""
        return f"{self.folder.name}-{self._mark}"

    # ---- plan ----

    def plan(self, accel: str) -> str:
        """The domain XML, and the forwards that libvirt 9.0 has no working word for."""
        how = launch.here(self.run, self.folder, accel, self.spec.arch)
        text = domain_xml.xml(self.spec, how, self.domain_name)
        hmp = domain_xml.forwards(self.spec)
        return text + "".join(
            f"# virsh qemu-monitor-command {self.domain_name} --hmp {one!r}\n" for one in hmp
        )

    # ---- start ----

    def _start(self, accel: str, edges: Edges, dies_with_us: bool, how: Launch | None) -> Boot:
        """Start the domain; t3 is libvirt's return.

        Raises HostUnfit where libvirt's QEMU user cannot reach a file of it.
        """
        if len(str(self.run / "guest.1")) > _LONGEST_PATH:
            hint = "a shorter VMM_HOME, or no --autostart"
            raise Unsupported("cannot keep sockets in", str(self.run), "the path is too long", hint)
        paths.ensure(self.run, 0o755)
        self._link = link = libvirt_daemon.connection(self.uri)  # kept: an auto-destroyed domain goes with it
        libvirt_daemon.check_same_host(link, self.uri, self.run)
        who = self._user(accel)
        self._lay_out(who)
        if how and how.memory_file:
            who.give(Path(how.memory_file))
        self._clear_sockets(who)
        how = how or launch.here(self.run, self.folder, accel, self.spec.arch)
        owner = f"+{who.uid}:+{who.gid}" if who.uid is not None else ""
        joined = networking.join(self._on_libvirts_networks(link), self.folder.name, taps=False)
        how = replace(how, bridges=joined.bridges)
        text = domain_xml.xml(joined.spec, how, self.domain_name, owner)
        self._destroy_stray(link)
        edges.mark("t2")
        try:
            domain = self._created(link, text, dies_with_us, how.paused)
        except libvirt.libvirtError as error:
            self._log(error)
            raise _told("libvirt cannot start", self.folder.name, error) from None
        edges.mark("t3")
        return self._watch(domain, edges)

    def _on_libvirts_networks(self, link: libvirt.virConnect) -> MachineSpec:
        if not any(nic.kind == "libvirt" for nic in self.spec.nics):
            return self.spec
        from vmm import libvirt_networks

        spec = libvirt_networks.join(link, self.spec, self.folder.name)
        place = next(nic.ip for nic in spec.nics if nic.kind == "libvirt")
        (self.run / networking.PLACE).write_text(place)
        return spec

    def _created(
        self, link: libvirt.virConnect, text: str, dies_with_us: bool, paused: bool
    ) -> libvirt.virDomain:
        stopped = libvirt.VIR_DOMAIN_START_PAUSED if paused else 0
        if dies_with_us:
            # The domain goes with this connection, and the connection with us.
            return link.createXML(text, libvirt.VIR_DOMAIN_START_AUTODESTROY | stopped)
        self._undefine(link)
        self._note.write_text(f"{self.domain_name}\n")
        domain = link.defineXML(text)
        if self.spec.autostart:
            domain.setAutostart(1)
        domain.createWithFlags(stopped)
        return domain

    @property
    def _note(self) -> Path:
        """Under which name libvirt keeps a definition of the machine: a rename changes ours, not that."""
        return self.folder / "domain"

    def _undefine(self, link: libvirt.virConnect) -> None:
        """Take back a definition under an earlier name."""
        kept = self._note.read_text().strip() if self._note.exists() else self.domain_name
        if kept != self.domain_name:
            with contextlib.suppress(libvirt.libvirtError):
                link.lookupByName(kept).undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM)

    def _user(self, accel: str) -> confine.Confinement:
        who = confine.confinement(self._needs(), accel == "kvm", None if os.geteuid() else _qemu_user())
        if who.note:
            hint = who.note.rpartition("; ")[2]
            raise HostUnfit("libvirt's QEMU cannot reach the files of", self.folder.name, who.note, hint)
        return who

    def _clear_sockets(self, who: confine.Confinement) -> None:
        for name in self._sockets():
            with contextlib.suppress(FileNotFoundError):
                (self.run / name).unlink()
        who.give(self.run, 0o755)  # QEMU itself makes the query socket there

    def _destroy_stray(self, link: libvirt.virConnect) -> None:
        """End a domain of this name that has no QEMU of ours: a killed start left it half made."""
        try:
            domain = link.lookupByName(self.domain_name)
        except libvirt.libvirtError:
            return
        with contextlib.suppress(libvirt.libvirtError):
            domain.destroy()

    def _log(self, error: libvirt.libvirtError) -> None:
        (self.folder / "qemu.log").write_text(f"{error}\n")

    def _watch(self, domain: libvirt.virDomain, edges: Edges) -> Boot:
        try:
            for line in domain_xml.forwards(self.spec):
                _hmp(domain, line)
            pid = process.await_life(self.run / "pid", 5.0)
            if pid is None:
                raise Failure(
                    "the machine ended at once", self.folder.name, hint="virsh dominfo, its log in libvirt"
                )
            guest, serial = (process.call(self.run / name) for name in ("guest", "serial"))
            boot = Boot(self.folder, edges, pid, guest, serial, self._monitor(domain))
            boot.own(self.run)
            return boot
        except BaseException:
            with contextlib.suppress(libvirt.libvirtError):
                domain.destroy()
            raise

    def _monitor(self, domain: libvirt.virDomain) -> monitor.Monitor:
        from vmm.libvirt_monitor import DomainMonitor

        return DomainMonitor(domain, self.folder.name, self.run / monitor.JOURNAL)

    # ---- life ----

    def state(self) -> str:
        """What QEMU says of itself; how far an earlier start came is forgotten once libvirt starts it."""
        if self.spec.autostart:
            with contextlib.suppress(FileNotFoundError):
                seen = self.run / "ready"
                if seen.stat().st_mtime_ns < (self.run / "pid").stat().st_mtime_ns:
                    seen.unlink()
        return super().state()

    @contextlib.contextmanager
    def _domain(self) -> Iterator[libvirt.virDomain]:
        if self.pid() is not None and super().state() == "unresponsive":
            # libvirt would wait for its monitor without an end
            why = "its QEMU does not answer (stopped by a signal, or starved)"
            raise DeadlinePassed("cannot reach", self.folder.name, why, f"vmm kill {self.folder.name}")
        link = libvirt_daemon.connection(self.uri)
        try:
            yield link.lookupByName(self.domain_name)
        except libvirt.libvirtError as error:
            raise _told("libvirt refuses for", self.folder.name, error) from None
        finally:
            link.close()

    def execute(self, command: str, arguments: dict[str, Any] | None = None, timeout_s: float = 5.0) -> Any:
        """One QMP command through libvirt's own monitor; marks the domain as tainted, as libvirt says."""
        import libvirt_qemu

        request = {"execute": command, **({"arguments": arguments} if arguments else {})}
        monitor.note(self.run / monitor.JOURNAL, monitor.told(request))
        with self._domain() as domain:
            reply = json.loads(libvirt_qemu.qemuMonitorCommand(domain, json.dumps(request), 0))
        if "error" in reply:
            raise Failure(f"QEMU refused {command} of", self.folder.name, reply["error"].get("desc", ""))
        return reply["return"]

    def lend(self, path: Path) -> None:
        """Make a file QEMU's own."""
        self._user("tcg").give(path)

    def netdev(self, number: int) -> str:
        """libvirt's name of a network card's backend."""
        return f"hostnet{number}"

    def pause(self) -> None:
        """Suspend the domain."""
        with self._domain() as domain:
            domain.suspend()

    def resume(self) -> None:
        """Resume the domain."""
        with self._domain() as domain:
            domain.resume()

    def press_power(self) -> None:
        """Press the ACPI power button."""
        with self._domain() as domain:
            domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Kill QEMU as libvirt would after its grace of a second or two; libvirt sees its monitor hang up.

        It then takes a second or more to clear away its cgroups: `boot` waits for that, a stop need not.
        """
        if number != signal.SIGKILL:
            raise Unsupported("libvirt passes no signal but KILL to", self.folder.name)
        if self.pid() is None:
            return
        super().kill(number)

    def release(self) -> None:
        """Remove what dies with a run, and hang up."""
        super().release()
        if self._link is not None:
            self._link.close()
        self._link = None

    def forget(self) -> None:
        """Undefine the domain, with the NVRAM that libvirt would keep; HostUnfit where no libvirt answers."""
        on_network = any(nic.kind == "libvirt" for nic in self.spec.nics)
        if not (self._note.exists() or on_network):
            return
        link = libvirt_daemon.connection(self.uri)
        try:
            if on_network:
                from vmm import libvirt_networks

                libvirt_networks.leave(link, self.spec, self.folder.name)
            with contextlib.suppress(libvirt.libvirtError, FileNotFoundError):
                link.lookupByName(self._note.read_text().strip()).undefineFlags(
                    libvirt.VIR_DOMAIN_UNDEFINE_NVRAM | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
                )
        finally:
            link.close()
        self._note.unlink(missing_ok=True)


def _qemu_user() -> tuple[int, int]:
    """The user of the system libvirt's QEMU: Debian's package makes it, and qemu.conf's default names it."""
    import pwd

    try:
        entry = pwd.getpwnam("libvirt-qemu")
    except KeyError:
        return 0, 0
    return entry.pw_uid, entry.pw_gid


def _hmp(domain: libvirt.virDomain, line: str) -> str:
    import libvirt_qemu

    return str(
        libvirt_qemu.qemuMonitorCommand(domain, line, libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP)
    )


def _told(what: str, on: str, error: libvirt.libvirtError) -> Failure:
    words = error.get_error_message() or str(error)
    hint = ""
    if "Permission denied" in words or "Could not open" in words:
        hint = "libvirt's QEMU user must be able to read that path: chmod o+x its directories"
    return Failure(what, on, words, hint)
