"""The libvirt driver: the same spec as a domain of qemu:///system or qemu:///session. The only `import
libvirt`.

QEMU's pid and its status come from the same pidfile and query socket as with the qemu driver: a domain that
virsh stopped, paused or destroyed behind our back is shown as it is, and `vmm ls` pays for no libvirt
connection.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import libvirt

from host import commands, paths
from host.edges import Edges
from host.errors import Failure, HostUnfit, Unsupported, WrongState
from vmm import confine, domain_xml, launch, networking, process
from vmm.boot import Boot
from vmm.launch import Launch
from vmm.qemu_driver import QemuDriver
from vmm.spec import MachineSpec

_DAEMONS = (("virtlogd", "-d"), ("libvirtd", "-d"))
_DAEMON_START_S = 20.0


def uri() -> str:
    """The libvirt to use: `$LIBVIRT_DEFAULT_URI`, else the system's for root and the session's for a user."""
    return os.environ.get("LIBVIRT_DEFAULT_URI") or ("qemu:///session" if os.geteuid() else "qemu:///system")


def connection() -> libvirt.virConnect:
    """An open connection; starts the daemons as their manual pages say where root has none and no systemd.

    Raises HostUnfit with the command that would start them otherwise.
    """
    libvirt.registerErrorHandler(lambda *_: None, None)  # the library would print to stderr by itself
    try:
        return libvirt.open(uri())
    except libvirt.libvirtError as error:
        if uri() != "qemu:///system" or os.geteuid() or Path("/run/systemd/system").exists():
            raise _unreachable(error) from None
    start_daemons()
    return _opened(_DAEMON_START_S)


def _give_kvm_its_group() -> None:
    """Give /dev/kvm the group and mode that udev's rule gives it, where no udev runs.

    libvirt 9.0 asks twice whether KVM is usable, once as root and once as its QEMU user; where the answers
    differ it probes QEMU anew, for over a minute, at every start.
    """
    import grp

    with contextlib.suppress(OSError, KeyError):
        device, group = os.stat("/dev/kvm"), grp.getgrnam("kvm").gr_gid
        if device.st_gid == 0 and not os.path.exists("/run/udev/control"):
            os.chown("/dev/kvm", -1, group)
            os.chmod("/dev/kvm", 0o660)


def start_daemons() -> None:
    """Start virtlogd and libvirtd in the background (their -d), as where no service manager does."""
    _give_kvm_its_group()
    for words in _DAEMONS:
        with contextlib.suppress(Failure):  # one of the two may run already: opening is what decides
            commands.run(words, f"cannot start {words[0]}", timeout_s=_DAEMON_START_S)


def _opened(timeout_s: float) -> libvirt.virConnect:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return libvirt.open(uri())
        except libvirt.libvirtError as error:
            if time.monotonic() > deadline:
                raise _unreachable(error) from None
        time.sleep(0.05)


def _unreachable(error: libvirt.libvirtError) -> HostUnfit:
    start = "systemctl start libvirtd" if Path("/run/systemd/system").exists() else "virtlogd -d; libvirtd -d"
    return HostUnfit("cannot reach libvirt at", uri(), str(error), f"as root: {start}")


class LibvirtDriver(QemuDriver):
    """One machine as a libvirt domain; transient and bound to us in the foreground, else defined."""

    def __init__(self, folder: Path, run: Path, spec: MachineSpec) -> None:
        # libvirt would make up a UUID, and then refuse the same name with another one at the next start.
        super().__init__(folder, run, replace(spec, uuid=spec.uuid or str(uuid5(NAMESPACE_URL, str(folder)))))
        self._link: libvirt.virConnect | None = None

    @property
    def domain_name(self) -> str:
        """Its name for virsh: the home's digest keeps two homes on one host apart."""
        return f"{self.folder.name}-{self.run.parent.name[:6]}"

    # ---- plan ----

    def plan(self, accel: str) -> str:
        """The domain XML, and the forwards that libvirt 9.0 has no working word for."""
        how = launch.here(self.run, self.folder, accel, self.spec.arch)
        text = domain_xml.xml(self.spec, how, self.domain_name)
        hmp = [line for number, nic in enumerate(self.spec.nics) for line in domain_xml.forwards(nic, number)]
        return text + "".join(
            f"# virsh qemu-monitor-command {self.domain_name} --hmp {one!r}\n" for one in hmp
        )

    # ---- start ----

    def boot(self, accel: str, edges: Edges, dies_with_us: bool, how: Launch | None = None) -> Boot:
        """Start the domain and return the Boot that watches it; t3 is libvirt's return.

        Raises WrongState when it runs already, HostUnfit where its QEMU user cannot reach a file of it.
        """
        if self.pid() is not None:
            raise WrongState("cannot start", self.folder.name, "its QEMU runs already")
        paths.ensure(self.run, 0o755)
        who = self._user(accel)
        self._lay_out(who)
        self._clear_sockets(who)
        how = how or launch.here(self.run, self.folder, accel, self.spec.arch)
        owner = f"+{who.uid}:+{who.gid}" if who.uid is not None else ""
        joined = networking.join(self.spec, self.folder.name, taps=False)
        how = replace(how, bridges=joined.bridges)
        text = domain_xml.xml(joined.spec, how, self.domain_name, owner)
        self._link = link = connection()  # kept: an auto-destroyed domain goes with it
        self._destroy_stray(link)
        edges.mark("t2")
        try:
            domain = _created(link, text, dies_with_us, how.paused)
            edges.mark("t3")
        except libvirt.libvirtError as error:
            self._log(error)
            raise _told("libvirt cannot start", self.folder.name, error) from None
        return self._watch(domain, edges)

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
            for number, nic in enumerate(self.spec.nics):
                for line in domain_xml.forwards(nic, number):
                    _hmp(domain, line)
            pid = process.await_life(self.run / "pid", 5.0)
            if pid is None:
                raise Failure(
                    "the machine ended at once", self.folder.name, hint="virsh dominfo, its log in libvirt"
                )
            guest, serial = (process.call(self.run / name) for name in ("guest", "serial"))
            return Boot(self.folder, edges, pid, guest, serial)
        except BaseException:
            with contextlib.suppress(libvirt.libvirtError):
                domain.destroy()
            raise

    # ---- life ----

    @contextlib.contextmanager
    def _domain(self) -> Iterator[libvirt.virDomain]:
        link = connection()
        try:
            yield link.lookupByName(self.domain_name)
        except libvirt.libvirtError as error:
            raise _told("libvirt refuses for", self.folder.name, error) from None
        finally:
            link.close()

    def execute(self, command: str, arguments: dict[str, Any] | None = None, timeout_s: float = 5.0) -> Any:
        """One QMP command through libvirt's own monitor; marks the domain as tainted, as libvirt says."""
        import libvirt_qemu

        request = json.dumps({"execute": command, **({"arguments": arguments} if arguments else {})})
        with self._domain() as domain:
            reply = json.loads(libvirt_qemu.qemuMonitorCommand(domain, request, 0))
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

    def reset(self) -> None:
        """Press the reset button."""
        with self._domain() as domain:
            domain.reset()

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
        """Undefine the domain, with the NVRAM that libvirt would keep."""
        with contextlib.suppress(Failure), self._domain() as domain:
            domain.undefineFlags(
                libvirt.VIR_DOMAIN_UNDEFINE_NVRAM | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
            )


def _qemu_user() -> tuple[int, int]:
    """The user of the system libvirt's QEMU: Debian's package makes it, and qemu.conf's default names it."""
    import pwd

    try:
        entry = pwd.getpwnam("libvirt-qemu")
    except KeyError:
        return 0, 0
    return entry.pw_uid, entry.pw_gid


def _created(link: libvirt.virConnect, text: str, dies_with_us: bool, paused: bool) -> libvirt.virDomain:
    stopped = libvirt.VIR_DOMAIN_START_PAUSED if paused else 0
    if dies_with_us:
        # The domain goes with this connection, and the connection with us.
        return link.createXML(text, libvirt.VIR_DOMAIN_START_AUTODESTROY | stopped)
    domain = link.defineXML(text)
    domain.createWithFlags(stopped)
    return domain


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
