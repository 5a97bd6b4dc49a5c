"""What a process inside a container can reach: tried from inside, with its rights, needing nothing of its
image.

The probes run in a process that stays ours to the end (containers.visiting): everything they use is imported
before, and each is a system call or the opening of a file that a sound container refuses. What is tried is
undone at once where it succeeds.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from containers import visiting
from host.errors import Unsupported
from host.linux import syscalls as sc

if TYPE_CHECKING:
    from containers.container import Container


class Probe(NamedTuple):
    """One thing tried: `attempt` raises OSError where it is refused, and says what it saw where not."""

    name: str
    danger: str
    attempt: Callable[[], str]


_libc = ctypes.CDLL(None, use_errno=True)


def _call(number: int, *arguments: int) -> Callable[[], str]:
    """A raw system call with harmless arguments: EPERM and ENOSYS mean refused, another error means it was
    let in.
    """
    longs = [ctypes.c_long(one) for one in (number, *arguments)]

    def attempt() -> str:
        if _libc.syscall(*longs) < 0 and ctypes.get_errno() in (errno.EPERM, errno.ENOSYS, errno.EACCES):
            raise OSError(ctypes.get_errno(), "")
        return "the kernel took the call"

    return attempt


def _opened(path: bytes, flags: int, least: int = 0) -> Callable[[], str]:
    """Opening a file, and reading more than `least` bytes from it where it is for reading."""

    def attempt() -> str:
        fd = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if flags & os.O_WRONLY:
                return "open for writing"
            data = os.read(fd, 64)
            if len(data) <= least:
                raise OSError(errno.ENODATA, "")
            return "readable"
        finally:
            os.close(fd)

    return attempt


def _mount() -> str:
    sc.mount(b"probe", b"/tmp", b"tmpfs", 0)
    sc.umount2(b"/tmp", sc.MNT_DETACH)
    return "a tmpfs was mounted and taken away again"


def _host_disk() -> str:
    path = b"/dev/.vmm-probe"
    os.mknod(path, 0o600 | 0o060000, os.makedev(*_root_device))
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    finally:
        os.unlink(path)
    return "the disk of the host can be read"


_root_device = (0, 0)


def _other_processes() -> str:
    pids = [name for name in os.listdir(b"/proc") if name.isdigit()]
    with_own = os.readlink(b"/proc/self/ns/pid")
    if _host_pid_namespace and with_own == _host_pid_namespace:
        return f"all {len(pids)} processes of the host are in sight"
    raise OSError(errno.ESRCH, "")


_host_pid_namespace = b""


def _way_up() -> str:
    for path in (b"/proc/1/root/..", b"/../.."):
        seen, root = os.stat(path), os.stat(b"/")
        if (seen.st_dev, seen.st_ino) != (root.st_dev, root.st_ino):
            return "leads out of the root"
    raise OSError(errno.EXDEV, "")


def _sockets_of_engines() -> str:
    for path in (b"/var/run/docker.sock", b"/run/containerd/containerd.sock", b"/run/podman/podman.sock"):
        try:
            os.stat(path)
        except OSError:
            continue
        return os.fsdecode(path)
    raise OSError(errno.ENOENT, "")


def _raw_socket() -> str:
    answer = _libc.socket(2, 3, 1)  # AF_INET, SOCK_RAW, IPPROTO_ICMP
    if answer < 0:
        raise OSError(ctypes.get_errno(), "")
    os.close(answer)
    return "packets can be forged"


def _hostname() -> str:
    name = os.uname().nodename.encode()
    sc.sethostname(name)
    return "settable"


def _pivot() -> str:
    sc.pivot_root(b"/", b"/")
    return "moved"


def _user_namespace() -> str:
    sc.unshare(sc.CLONE_NEWUSER)
    return "made"


def _numbers() -> tuple[Probe, ...]:
    if os.uname().machine != "x86_64":
        return ()
    return (
        Probe("bpf", "load programs into the kernel", _call(321, 0, 0, 0)),
        Probe("userfaultfd", "stop the kernel mid-copy", _call(323, 0)),
        Probe("io_uring", "a large, young part of the kernel", _call(425, 1, 0)),
        Probe("keyctl", "keys of others: keyrings know no namespace", _call(250, 0, -3)),
        Probe("perf_event_open", "watch the host's processes", _call(298, 0, 0, 0, 0, 0)),
        Probe("open_by_handle_at", "files outside the root by number", _call(304, -1, 0, 0)),
        Probe("kexec_load", "another kernel", _call(246, 0, 0, 0, 0)),
        Probe("init_module", "code in the kernel", _call(175, 0, 0, 0)),
        Probe("clock_settime", "the host's clock", _call(227, 99, 0)),
        Probe("reboot", "the host's power", _call(169, 0, 0, 0, 0)),
        Probe("swapon", "the host's memory", _call(167, 0, 0)),
        Probe("AF_ALG socket", "the kernel's cryptography", _call(41, 38, 5, 0)),
        Probe("AF_VSOCK socket", "the hypervisor", _call(41, 40, 1, 0)),
        Probe("TIOCSTI", "keys typed into the user's terminal", _call(16, 0, 0x5412, 0)),
    )


PROBES = (
    Probe("mount", "rearrange the view of files", _mount),
    Probe("pivot_root", "another root", _pivot),
    Probe("host's disk", "every file of the host", _host_disk),
    Probe("host's processes", "signals and secrets of others", _other_processes),
    Probe("way up", "the host's files", _way_up),
    Probe("raw socket", "forge packets on the bridge", _raw_socket),
    Probe("sethostname", "the host's name", _hostname),
    Probe("core_pattern", "run on the host at a crash", _opened(b"/proc/sys/kernel/core_pattern", 1)),
    Probe("sysrq-trigger", "the host's power", _opened(b"/proc/sysrq-trigger", 1)),
    Probe("uevent_helper", "a program of ours run by the host", _opened(b"/sys/kernel/uevent_helper", 1)),
    Probe("cgroup's own limit", "more than was granted", _opened(b"/sys/fs/cgroup/pids/pids.max", 1)),
    Probe("kcore", "the host's memory", _opened(b"/proc/kcore", 0)),
    Probe("/proc/keys", "others' keys", _opened(b"/proc/keys", 0)),
    Probe("kmsg", "the host's log", _opened(b"/dev/kmsg", 0)),
    Probe("/dev/mem", "the host's memory", _opened(b"/dev/mem", 0)),
    Probe("engines' sockets", "root on the host", _sockets_of_engines),
    *_numbers(),
    # Last: where it succeeds, we are somebody else afterwards.
    Probe("user namespace", "full rights over new kernel objects", _user_namespace),
)  # fmt: skip


def probe(container: Container) -> str:
    """Try everything inside the running container; a table, what is open first."""
    global _root_device, _host_pid_namespace
    device = os.stat("/").st_dev
    _root_device = (os.major(device), os.minor(device))
    _host_pid_namespace = os.readlink(b"/proc/self/ns/pid")
    read, write = os.pipe2(os.O_CLOEXEC)
    try:
        visiting.visit(container, _try_all, write)
    finally:
        os.close(write)
    with os.fdopen(read, "rb") as answers:
        found = answers.read().decode(errors="replace").splitlines()
    if len(found) != len(PROBES):
        raise Unsupported("cannot probe", container.spec.name, "\n".join(found) or "nothing came back")
    return _table(container, found)


def _try_all() -> None:
    """Inside: one line a probe, `+` for what was possible and `-` for what was refused."""
    for one in PROBES:
        try:
            line = b"+" + one.attempt().encode()
        except OSError as error:
            line = b"-%d" % (error.errno or 0)
        os.write(1, line + b"\n")


def _table(container: Container, found: list[str]) -> str:
    rows = []
    for one, answer in zip(PROBES, found, strict=True):
        is_open = answer.startswith("+")
        said = answer[1:] if is_open else os.strerror(int(answer[1:]))
        rows.append(
            (not is_open, f"{'OPEN' if is_open else 'refused':<8} {one.name:<20} {said:<40} {one.danger}")
        )
    rows.sort(key=lambda row: row[0])
    count = sum(1 for closed, _ in rows if not closed)
    head = f"{container.spec.name}: {count} of {len(rows)} probes got through"
    return "\n".join([head, *(text for _, text in rows)])
