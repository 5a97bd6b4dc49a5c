"""One QEMU process: its sockets, made before it is; its start, its life by pidfile lock, its end."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from host.errors import DeadlinePassed, from_os_error

_F_OFD_GETLK = 36  # fcntl.h; QEMU locks its pidfile with an open file description lock, which names no pid
_FIRST_TO_END = "1000"
_FLOCK = "hhqqi4x"  # struct flock on 64-bit Linux


def listen(run: Path, names: Iterable[str]) -> dict[str, socket.socket]:
    """Listening sockets by name in `run`, for QEMU to inherit: clients may connect before it has begun.

    A socket that a dead QEMU left is replaced; the caller has made sure that none runs.
    """
    made: dict[str, socket.socket] = {}
    try:
        for name in names:
            path = run / name
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            made[name] = listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            listener.bind(str(path))
            listener.listen(4)
    except OSError as error:
        for one in made.values():
            one.close()
        raise from_os_error("cannot make the machine's sockets in", error, str(run)) from None
    return made


def call(path: Path) -> socket.socket:
    """A connection to a unix socket; FileNotFoundError or ConnectionRefusedError where nobody listens."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connection.connect(str(path))
    except BaseException:
        connection.close()
        raise
    return connection


def spawn(argv: list[str], inherit: Sequence[int], log: Path, short_lived: bool = False) -> int:
    """Start a program by posix_spawn(3), with stdin closed, its words in `log` and only `inherit` open; its
    pid.

    One that is short-lived has its heap in huge pages: 7 MiB more, and QEMU is up 4 ms sooner.
    """
    actions: list[tuple[object, ...]] = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
        (os.POSIX_SPAWN_DUP2, 1, 2),
        # dup2 of a descriptor onto itself is how posix_spawn says "not closed by exec"
        *((os.POSIX_SPAWN_DUP2, fd, fd) for fd in inherit),
    ]
    return os.posix_spawnp(argv[0], argv, _environment(short_lived), file_actions=actions, setsid=True)


def _environment(short_lived: bool) -> dict[str, str]:
    # glibc's manual, "Memory Allocation Tunables": hugetlb=1 is madvise(MADV_HUGEPAGE) for what malloc gets.
    # The arena of a further thread would grow page by page, by 260 mprotect(2) while a clone translates.
    tunables = "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1"
    return {
        "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
        "LC_ALL": "C.UTF-8",
        **({"GLIBC_TUNABLES": tunables} if short_lived else {}),
    }


def living(pidfile: Path) -> int | None:
    """The pid of the QEMU that holds `pidfile`'s lock, or None: a pid alone may be somebody else's by now."""
    try:
        fd = os.open(pidfile, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind = struct.unpack(_FLOCK, fcntl.fcntl(fd, _F_OFD_GETLK, asked))[0]
        text = os.read(fd, 32)
    finally:
        os.close(fd)
    if kind == fcntl.F_UNLCK or not text.strip().isdigit():
        return None
    return int(text)


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal; a process that is gone is no error."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def expose(pid: int) -> str:
    """Make a process the first that the kernel ends where memory is out; what `shelter` wants to undo it.

    A machine that comes up must not cost one that runs its life (proc(5), oom_score_adj).
    """
    try:
        own = own_exposure()
        with open(f"/proc/{pid}/oom_score_adj", "w") as file:
            file.write(_FIRST_TO_END)
    except OSError:
        return ""
    return own


def own_exposure() -> str:
    """What `shelter` gives to a process that is to be as exposed as we are."""
    with open("/proc/self/oom_score_adj") as file:
        return file.read().strip()


def shelter(pid: int, as_before: str) -> None:
    """Undo `expose`; nobody needs a right to come back to what he had."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/oom_score_adj", "w") as file:
        file.write(as_before)


def reap(pid: int) -> int | None:
    """The wait status where `pid` is a child of ours that ended, else None; never waits."""
    try:
        done, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status) if done else None


def wait_gone(pid: int, timeout_s: float, what: str = "QEMU") -> int | None:
    """Wait until the process is gone; its exit status where it was our child, else None.

    Raises DeadlinePassed after `timeout_s` seconds.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except OSError as error:
        if error.errno == errno.ESRCH:
            return None
        raise from_os_error("cannot watch the process", error, str(pid)) from None
    try:
        if not select.select([pidfd], [], [], timeout_s)[0]:
            raise DeadlinePassed(
                "waited for the end of", f"{what} (pid {pid})", f"still there after {timeout_s:g} s"
            )
    finally:
        os.close(pidfd)
    return reap(pid)


def end(pid: int, timeout_s: float = 10.0) -> None:
    """Kill the process and see it gone."""
    kill(pid)
    wait_gone(pid, timeout_s)


def await_life(pidfile: Path, timeout_s: float) -> int | None:
    """The pid once QEMU has locked its pidfile, or None when it has not within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while (pid := living(pidfile)) is None and time.monotonic() < deadline:
        time.sleep(0.005)
    return pid
