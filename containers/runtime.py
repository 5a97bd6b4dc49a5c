"""What dies with the host's boot: the run directory of a container, and whether its first process still
lives.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from host.typing import NamedTuple

_PF_EXITING = 0x4  # include/linux/sched.h


class Init(NamedTuple):
    """The container's first process: a pid means it only together with its start time (pids are reused)."""

    pid: int
    start_ticks: int
    started_unix_ns: int


def record(run: Path, pid: int) -> None:
    """Write down the first process. The child still waits at its gate: nothing can run that nobody knows
    of.
    """
    data = f"{pid} {start_ticks(pid)} {time.time_ns()}\n".encode()
    try:
        fd = os.open(run / "pid", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    except FileNotFoundError:
        run.mkdir(parents=True, exist_ok=True)
        fd = os.open(run / "pid", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def recorded(run: Path) -> Init | None:
    """The first process as written down, alive or not; None where nothing (whole) was."""
    try:
        words = (run / "pid").read_text().split()
        return Init(int(words[0]), int(words[1]), int(words[2]))
    except (OSError, IndexError, ValueError):
        return None


def living(run: Path) -> Init | None:
    """The first process if it still runs; a zombie that its parent has yet to reap does not."""
    init = recorded(run)
    if init is None or start_ticks(init.pid) != init.start_ticks:
        return None
    return init


def start_ticks(pid: int) -> int:
    """Field 22 of /proc/PID/stat (proc(5)); 0 for a process that is gone, a zombie, or dying past return."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0
    if fields[0] in (b"Z", b"X") or (int(fields[6]) & _PF_EXITING and not _has_namespaces(pid)):
        return 0
    return int(fields[19])


def _has_namespaces(pid: int) -> bool:
    """A killed pid 1 has left its own, and stays until the parent of whoever else was inside reaps that."""
    try:
        os.readlink(f"/proc/{pid}/ns/mnt")
    except FileNotFoundError:
        return False
    except OSError:
        return True  # not ours to see
    return True


def reap(run: Path) -> None:
    """Collect the first process where this very process started it: a zombie is nobody else's to take."""
    init = recorded(run)
    try:
        if init and start_ticks(init.pid) == 0:
            os.waitpid(init.pid, os.WNOHANG)
    except ChildProcessError:
        pass


def status(run: Path) -> int | None:
    """The exit status that the helper wrote; None where nobody saw the end."""
    try:
        with open(run / "status", "rb") as file:
            words = file.read(64).split()
    except OSError:
        return None
    if len(words) >= 2 and words[0] == b"exit" and words[1].isdigit():
        return int(words[1]) & 0xFF
    return None


def write_status(run: Path, status: int) -> None:
    """Note an exit status that we saw or caused ourselves."""
    (run / "status").write_bytes(b"exit %d\n" % status)


def make_fifo(path: Path) -> int:
    """A FIFO opened for reading and writing: no reader's death is ever felt, no end of file is ever seen
    (fifo(7)).
    """
    with contextlib.suppress(FileExistsError):
        os.mkfifo(path, 0o600)
    return os.open(path, os.O_RDWR | os.O_CLOEXEC)


def close_all(fds: Sequence[int]) -> None:
    """Close each descriptor of ours that is open (not -1)."""
    for fd in fds:
        if fd >= 0:
            os.close(fd)


def remove_tree(path: str) -> None:
    """Remove a directory with all that is in it, following no link; harmless where it is not."""
    try:
        _empty(path)
    except PermissionError:
        os.chmod(path, 0o700)  # overlayfs makes work/work with mode 0, and so may a container
        _empty(path)
    except FileNotFoundError:
        return
    os.rmdir(path)


def _empty(path: str) -> None:
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                remove_tree(entry.path)
            else:
                os.unlink(entry.path)


@contextlib.contextmanager
def held(run: Path) -> Iterator[bool]:
    """Hold flock(2) on the run directory; whether it is there still, once we hold it.

    The supervisor cleans up after a run while it holds this, and the next start, or rm, takes it before it
    forgets that run: what goes by the container's name (cgroup, lease) is never taken from the next run.
    """
    try:
        fd = os.open(run, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield os.fstat(fd).st_nlink > 0
    finally:
        os.close(fd)


def forget(run: Path) -> None:
    """Remove the run directory."""
    try:
        os.unlink(run / "pid")  # all there is after a run in the foreground
        os.rmdir(run)
    except OSError:
        remove_tree(str(run))
