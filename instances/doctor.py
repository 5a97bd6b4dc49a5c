"""What this host really can do: every capability tried, not guessed from a file's presence."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from host import paths
from host.errors import Failure, HostUnfit

_LEAST_FREE_BYTES = 2 << 30


class Finding(NamedTuple):
    """One capability: whether it works, the reason or the version, and the command that mends it."""

    name: str
    works: bool
    reason: str
    mend: str = ""
    needed: bool = False


def examine(quick: bool = False) -> list[Finding]:
    """Every capability, in the order in which a reader asks; `quick` starts no probe guest."""
    checks: list[tuple[str, Callable[[], str], str, bool]] = [
        ("home", _home, "point VMM_HOME at a directory that you can write to", True),
        ("disk space", _disk_space, "vmm prune, or a larger file system for VMM_HOME", False),
        ("root", _root, "sudo vmm ... (rootless works too, with what follows)", False),
        ("user namespaces", _user_namespaces, "sysctl -w user.max_user_namespaces=15000", os.geteuid() != 0),
        ("id ranges", _id_ranges, "apt-get install uidmap; usermod --add-subuids 100000-165535 "
         "--add-subgids 100000-165535 $USER", False),
        ("overlay", _overlay, "modprobe overlay", True),
        ("cgroup", _cgroup, "mount -t cgroup2 none /sys/fs/cgroup, or log in through systemd", False),
        ("seccomp", _seccomp, "apt-get install libseccomp2", False),
        ("busybox", _program("busybox", static=True), "apt-get install busybox-static", False),
        ("mmdebstrap", _program("mmdebstrap"), "apt-get install mmdebstrap", False),
        ("mke2fs", _program("mke2fs"), "apt-get install e2fsprogs", False),
        ("guest helper", _guest_helper, "make setup", True),
        ("qemu", _program("qemu-system-x86_64"), "apt-get install qemu-system-x86", False),
        ("qemu-img", _program("qemu-img"), "apt-get install qemu-utils", False),
        ("memory snapshots", _memory_snapshots, "apt-get install qemu-system-x86", False),
        ("aarch64", _program("qemu-system-aarch64"), "apt-get install qemu-system-arm", False),
        ("kvm", _kvm_device if quick else _kvm, "", False),
        ("libvirt", _libvirt, "apt-get install libvirt-daemon-system; make setup", False),
        ("ovmf", _file("/usr/share/OVMF/OVMF_CODE.fd"), "apt-get install ovmf", False),
        ("swtpm", _program("swtpm"), "apt-get install swtpm", False),
        ("virtiofsd", _file("/usr/lib/qemu/virtiofsd"), "apt-get install qemu-system-common", False),
        ("nft", _nft, "apt-get install nftables", False),
        ("bridge", _bridge, "modprobe bridge veth (root)", False),
        ("dnsmasq", _program("dnsmasq"), "apt-get install dnsmasq-base", False),
        ("slirp4netns", _program("slirp4netns"), "apt-get install slirp4netns", False),
        ("chromium", _program("chromium"), "apt-get install chromium (PDF reports, page tests)", False),
        *((name, _program(name), "make peers", False) for name in _PEERS),
    ]  # fmt: skip
    return [_finding(*check) for check in checks]


_PEERS = ("docker", "podman", "runc", "crun", "bwrap", "lxc-execute", "systemd-nspawn", "hyperfine")


def _finding(name: str, check: Callable[[], str], mend: str, needed: bool) -> Finding:
    try:
        return Finding(name, True, check(), "", needed)
    except HostUnfit as error:
        return Finding(name, False, error.why or str(error), error.hint or mend, needed)
    except Failure as error:
        return Finding(name, False, str(error), error.hint or mend, needed)
    except OSError as error:
        return Finding(name, False, f"{error.filename or ''}: {error.strerror}".lstrip(": "), mend, needed)


def _no(reason: str, mend: str = "") -> HostUnfit:
    return HostUnfit("cannot use it", why=reason, hint=mend)


def _home() -> str:
    where = paths.ensure(paths.home())
    probe = where / f".doctor.{os.getpid()}.tmp"
    try:
        probe.write_bytes(b"")
    finally:
        probe.unlink(missing_ok=True)
    return str(where)


def _disk_space() -> str:
    from host.sizes import format_bytes

    free = shutil.disk_usage(paths.ensure(paths.home())).free
    if free < _LEAST_FREE_BYTES:
        raise _no(f"{format_bytes(free)} free, a Debian image wants {format_bytes(_LEAST_FREE_BYTES)}")
    return f"{format_bytes(free)} free"


def _root() -> str:
    if os.geteuid():
        raise _no(f"you are user {os.geteuid()}")
    return "you are root"


def _user_namespaces() -> str:
    limit = int(Path("/proc/sys/user/max_user_namespaces").read_text())
    with contextlib.suppress(FileNotFoundError):
        if Path("/proc/sys/kernel/unprivileged_userns_clone").read_text().strip() == "0" and os.geteuid():
            raise _no("the kernel forbids them to users", "sysctl -w kernel.unprivileged_userns_clone=1")
    if not limit:
        raise _no("user.max_user_namespaces is 0")
    return f"up to {limit}"


def _id_ranges() -> str:
    import pwd

    name = pwd.getpwuid(os.geteuid()).pw_name
    for file in ("/etc/subuid", "/etc/subgid"):
        lines = Path(file).read_text().splitlines()
        if not any(line.split(":")[0] in (name, str(os.geteuid())) for line in lines):
            if os.geteuid() == 0:
                return "root maps any id"
            raise _no(f"{file} has no range for {name}")
    if shutil.which("newuidmap") is None:
        raise _no("newuidmap is not installed", "apt-get install uidmap")
    return f"ranges for {name}"


def _overlay() -> str:
    if "overlay" not in Path("/proc/filesystems").read_text():
        raise _no("the kernel does not know it")
    return "the kernel knows it"


def _cgroup() -> str:
    from host.linux import cgroup

    found = cgroup.layout()
    if not found.bases:
        raise _no(found.why_not or "no controller is mounted that we may use")
    return f"v{found.version}: {' '.join(sorted(found.bases))}"


def _seccomp() -> str:
    import ctypes.util

    name = ctypes.util.find_library("seccomp")
    if name is None:
        raise _no("libseccomp is not installed")
    return name


def _program(name: str, static: bool = False) -> Callable[[], str]:
    def check() -> str:
        found = shutil.which(name)
        if found is None:
            raise _no("not installed")
        if static and b"ld-linux" in Path(found).read_bytes()[:4096]:
            raise _no(f"{found} is linked dynamically: it would not run in an image of its own")
        return found

    return check


def _memory_snapshots() -> str:
    """How they would be kept and loaded, which is QEMU's to offer; the older way works everywhere."""
    from vmm import offers

    found = offers.of("qemu-system-x86_64")
    said = f"QEMU {found.version}: "
    if not found.mapped_ram:
        return f"{said}kept in the disk (vmstate); mapped-ram comes with QEMU 9.0"
    if not found.on_demand:
        return f"{said}kept in files (mapped-ram); no fast snapshot load: {found.why_not}"
    return f"{said}kept in files (mapped-ram); its fast snapshot load is not used by vmm yet"


def _file(name: str) -> Callable[[], str]:
    def check() -> str:
        if not Path(name).exists():
            raise _no("not installed")
        return name

    return check


def _guest_helper() -> str:
    return str(paths.guest_helper())


def _kvm_device() -> str:
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        mend = "enable virtualization in the firmware, modprobe kvm_intel or kvm_amd; tcg works without"
        raise _no("/dev/kvm is not there", mend) from None
    except PermissionError:
        raise _no("/dev/kvm: permission denied", "usermod -aG kvm $USER, and log in again") from None
    return "/dev/kvm opens (not tried with a guest: --quick)"


def _kvm() -> str:
    _kvm_device()
    from vmm import accelerator

    found = accelerator.closed() or accelerator.recorded(paths.home()) or accelerator.probe()
    if not found.works:
        raise _no(
            _without_name(found.reason),
            "machines use tcg meanwhile; --accel kvm insists and shows QEMU's words",
        )
    return _without_name(found.reason)


def _without_name(reason: str) -> str:
    return reason.removeprefix("kvm: ")


def _libvirt() -> str:
    for program in ("libvirtd", "virtlogd"):
        if shutil.which(program) is None and not Path("/usr/sbin", program).exists():
            raise _no(f"{program} is not installed", "apt-get install libvirt-daemon-system")
    try:
        import libvirt
    except ImportError:
        raise _no("the Python binding is not installed", "make setup") from None
    number = libvirt.getVersion()
    return f"libvirt {number // 1000000}.{number // 1000 % 1000}.{number % 1000}"


def _nft() -> str:
    from host import commands

    if os.geteuid():
        return _program("nft")()
    commands.run(["nft", "list", "tables"], "cannot read the firewall", timeout_s=10)
    return shutil.which("nft") or ""


def _bridge() -> str:
    if os.geteuid():
        raise _no("only root makes bridges", "slirp4netns serves ordinary users")
    for module in ("bridge", "veth", "tun"):
        if not (Path("/sys/module", module).exists() or _loadable(module)):
            raise _no(f"the kernel has no {module}", f"modprobe {module}")
    return "bridge, veth and tun"


def _loadable(module: str) -> bool:
    """Whether it is built in or a module; one built in without parameters shows no /sys/module."""
    base = Path("/lib/modules", os.uname().release)
    listed = [base / "modules.builtin", base / "modules.dep"]
    known = any(f"/{module}.ko" in file.read_text() for file in listed if file.exists())
    return known or (module == "tun" and Path("/dev/net/tun").exists()) or not base.exists()


def daemons() -> list[dict[str, object]]:
    """The daemons that vmm started and left running: dnsmasq of networks, the supervisor, libvirt's."""
    found = []
    run = str(paths.run_dir())
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            words = Path(entry.path, "cmdline").read_bytes().decode(errors="replace").split("\0")
            program = os.path.basename(words[0])
            if program in ("dnsmasq", "virtlogd", "libvirtd") and any(run in word for word in words):
                found.append({"program": program, "pid": int(entry.name)})
            elif "containers.supervisor" in words and run in words:
                found.append({"program": "supervisor of containers", "pid": int(entry.name)})
    return found
