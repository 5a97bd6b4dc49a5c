"""Which libvirt, and a connection to it: the system's, a user's session, or one reached by ssh."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from urllib.parse import urlsplit

import libvirt

from host import commands
from host.errors import Failure, HostUnfit, Unsupported

_DAEMONS = (("virtlogd", "-d"), ("libvirtd", "-d"))
_DAEMON_START_S = 20.0
_PROBE_POOL = """<pool type='dir'><name>vmm-look-{name}</name><target><path>{folder}</path></target></pool>"""


def default_uri() -> str:
    """`$LIBVIRT_DEFAULT_URI`, else the system's for root and the session's for a user."""
    return os.environ.get("LIBVIRT_DEFAULT_URI") or ("qemu:///session" if os.geteuid() else "qemu:///system")


def connection(uri: str) -> libvirt.virConnect:
    """An open connection; starts the daemons as their manual pages say where root has none and no systemd.

    Raises HostUnfit with the command that would start them otherwise.
    """
    libvirt.registerErrorHandler(lambda *_: None, None)  # the library would print to stderr by itself
    try:
        return libvirt.open(uri)
    except libvirt.libvirtError as error:
        if uri != "qemu:///system" or os.geteuid() or Path("/run/systemd/system").exists():
            raise _unreachable(uri, error) from None
    start_daemons()
    return _opened(uri, _DAEMON_START_S)


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


def _opened(uri: str, timeout_s: float) -> libvirt.virConnect:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return libvirt.open(uri)
        except libvirt.libvirtError as error:
            if time.monotonic() > deadline:
                raise _unreachable(uri, error) from None
        time.sleep(0.05)


def _unreachable(uri: str, error: libvirt.libvirtError) -> HostUnfit:
    host = urlsplit(uri).hostname
    if host:
        hint = f"this must work without a question: ssh {host} virsh list"
    elif Path("/run/systemd/system").exists():
        hint = "as root: systemctl start libvirtd"
    else:
        hint = "as root: virtlogd -d; libvirtd -d"
    return HostUnfit("cannot reach libvirt at", uri, error.get_error_message() or str(error), hint)


def check_same_host(link: libvirt.virConnect, uri: str, run: Path) -> None:
    """Refuse a libvirt that does not see this host's files: disks and sockets of a machine lie here.

    Looks at `run` through a storage pool that lives as long as the look. Raises Unsupported.
    """
    host = urlsplit(uri).hostname
    if not host:
        return
    mark = run / f"look-{os.getpid()}"
    mark.touch()
    try:
        pool = link.storagePoolCreateXML(_PROBE_POOL.format(name=f"{run.parent.name}-{run.name}", folder=run))
        try:
            seen = mark.name in pool.listVolumes()
        finally:
            pool.destroy()
    except libvirt.libvirtError:
        seen = False
    finally:
        mark.unlink(missing_ok=True)
    if not seen:
        why = "its libvirt does not see the files of this host, where the machine's disk and sockets are"
        raise Unsupported("cannot start a machine on", host, why, f"run vmm there: ssh {host} vmm run ...")
