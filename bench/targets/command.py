"""Run a program and stamp its start: t2 just before the spawn, t6 by its init's word, t8 at its first byte.

A `root` is entered around the spawn alone: chroot(2) is part of the start that a chroot costs.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from bench.core import idle
from bench.core.target import MARKER, Cell, Parts
from host.edges import Edges
from host.errors import DeadlinePassed

ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C"}
HELPER = "/.vmm-guest"
# What an idle instance does after its marker; all our images have sh and sleep.
IDLE = ("sh", "-c", f"echo {MARKER}; exec sleep 86400")
OUTPUT_LIMIT_BYTES = 256 << 10
Env = Mapping[str, str] | None
_INIT = re.compile(rb"^vmm-init (\d+)\r?$", re.MULTILINE)


def inside(cell: Cell) -> tuple[str, ...]:
    """The cell's command, under our init unless the plan wants it bare."""
    return under_init(cell.command) if cell.param("init", True) else cell.command


def under_init(command: Sequence[str]) -> tuple[str, ...]:
    """The command under our init, which says `vmm-init NS` (CLOCK_MONOTONIC) on stderr when it begins: t6."""
    return (HELPER, "init", "--mark", "--", *command)


def resting(cell: Cell) -> tuple[str, ...]:
    """The command of a held instance: it sleeps; `hold` is a shell line that it runs before (a server)."""
    before = str(cell.param("hold", ""))
    return ("sh", "-c", f"{before}\necho {MARKER}; exec sleep 86400") if before else IDLE


class Spoken(NamedTuple):
    """What a program said, from its first byte on stdout to its last in `said_ns`, and how it ended."""

    stdout: bytes
    stderr: bytes
    said_ns: int
    status: int


def timed(argv: Sequence[str], cell: Cell, edges: Edges, env: Env = None, root: str | None = None) -> Parts:
    """Spawn the program, see it to its end, and report the start; `edges` has t0 already, or gets it now."""
    edges.mark("t0")
    edges.mark("t2")
    with _spawned(argv, env or ENV, root) as (pid, out_fd, err_fd):
        said = heard(out_fd, err_fd, edges, time.monotonic() + cell.deadline_s)
        _, raw = os.waitpid(pid, 0)
        edges.mark("t9")
    return parts(Spoken(*said, os.waitstatus_to_exitcode(raw)), cell, edges)


def parts(spoken: Spoken, cell: Cell, edges: Edges) -> Parts:
    """The report of a start from what was said: no marker, or a status that is not zero, is a failure."""
    told = _INIT.search(spoken.stderr)
    if told:
        edges.mark("t6", int(told[1]))
    output = spoken.stdout.decode(errors="replace")
    error = None
    if spoken.status:
        error = f"{cell.command[0]} ended with {spoken.status}: {_tail(spoken.stderr)}"
    elif MARKER in cell.command and MARKER not in output:
        error = f"the marker never came; stdout was {output[:80]!r}: {_tail(spoken.stderr)}"
    status = "failed" if error else "ok"
    values = {"work_s": spoken.said_ns / 1e9} if cell.mode == "workload" else {}
    return Parts(status, edges.since_ns(), values, spoken.status, error=error, output=output)


def said_init(stderr: bytes) -> bool:
    """Whether our init has told when it began."""
    return _INIT.search(stderr) is not None


def _tail(data: bytes) -> str:
    return _INIT.sub(b"", data).decode(errors="replace").strip()[-400:]


@contextmanager
def _spawned(argv: Sequence[str], env: Mapping[str, str], root: str | None) -> Iterator[tuple[int, int, int]]:
    """The program with pipes on stdout and stderr; killed and reaped if it is still there at the end.

    posix_spawn, since its vfork costs the same however much memory we have: fork(2) copies page tables.
    """
    out_fd, out_end = os.pipe2(os.O_CLOEXEC)
    err_fd, err_end = os.pipe2(os.O_CLOEXEC)
    null_fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    actions = [(os.POSIX_SPAWN_DUP2, fd, to) for to, fd in enumerate((null_fd, out_end, err_end))]
    fds = [out_fd, err_fd, out_end, err_end, null_fd]
    pid = 0
    try:
        with _inside(root) if root else contextlib.nullcontext():
            # Python ignores SIGPIPE; a program must not inherit that.
            pid = os.posix_spawnp(argv[0], [*argv], env, file_actions=actions, setsigdef=[signal.SIGPIPE])
        for fd in (out_end, err_end, null_fd):
            os.close(fd)
            fds.remove(fd)
        yield pid, out_fd, err_fd
    finally:
        if pid:
            end(pid)
        for fd in fds:
            os.close(fd)


def end(pid: int, grace_s: float = 3.0) -> None:
    """Ask the program to end, then kill it and all below it; reaped when this returns."""
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        if os.waitpid(pid, os.WNOHANG) != (0, 0):
            return
        family = idle.descendants(pid)
        os.kill(pid, signal.SIGTERM)
        if not ended(pid, grace_s):
            for one in family | idle.descendants(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one, signal.SIGKILL)
        os.waitpid(pid, 0)
        for one in family - {pid}:  # what it held dies with it, a moment later
            ended(one, grace_s)


def ended(pid: int, wait_s: float) -> bool:
    """Whether the process is gone, or goes within that time; it need not be our child."""
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            return bool(select.select([pidfd], [], [], wait_s)[0])
        finally:
            os.close(pidfd)
    return True


def heard(out_fd: int, err_fd: int, edges: Edges, until_s: float) -> tuple[bytes, bytes, int]:
    """All that is said until both pipes close; the first byte on stdout is t8. Raises DeadlinePassed."""
    said = {out_fd: b"", err_fd: b""}
    still = {out_fd, err_fd}
    first_ns = last_ns = 0
    while still:
        ready = select.select(list(still), [], [], max(until_s - time.monotonic(), 0))[0]
        now_ns = time.monotonic_ns()
        if not ready:
            raise DeadlinePassed("the command did not end", why=f"last words: {_tail(said[err_fd])!r}")
        for fd in ready:
            data = os.read(fd, 65536)
            if not data:
                still.discard(fd)
                continue
            if fd == out_fd:
                edges.mark("t8", now_ns)
                first_ns, last_ns = first_ns or now_ns, now_ns
            said[fd] = (said[fd] + data)[-OUTPUT_LIMIT_BYTES:]
    return said[out_fd], said[err_fd], last_ns - first_ns


@contextmanager
def running(
    argv: Sequence[str], deadline_s: float, env: Env = None, root: str | None = None
) -> Iterator[int]:
    """The program as an idle instance, from its first byte on stdout to the context's end; yields its pid."""
    with _spawned(argv, env or ENV, root) as (pid, out_fd, err_fd):
        if not select.select([out_fd], [], [], deadline_s)[0]:
            raise DeadlinePassed("the instance did not come up", why=f"no marker within {deadline_s:g} s")
        if not os.read(out_fd, 65536):
            raise DeadlinePassed(
                "the instance ended at once", why=os.read(err_fd, 4096).decode(errors="replace")
            )
        yield pid


@contextmanager
def _inside(root: str) -> Iterator[None]:
    """This process with another root directory, and back: a descriptor of the old one is the way out."""
    out_fd = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    here_fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.chroot(root)
        os.chdir("/")
        yield
    finally:
        os.fchdir(out_fd)
        os.chroot(".")
        os.fchdir(here_fd)
        os.close(out_fd)
        os.close(here_fd)


def await_text(read: Callable[[], str], text: str, deadline_s: float, pause_s: float = 0.05) -> None:
    """Wait until what `read` gives has the text in it; raises DeadlinePassed with what it last said."""
    until_s = time.monotonic() + deadline_s
    while text not in (said := read()):
        if time.monotonic() > until_s:
            raise DeadlinePassed("the instance did not come up", why=f"it says {said[-200:]!r}")
        time.sleep(pause_s)
