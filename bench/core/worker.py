"""A worker process for one run, or a batch of them: what goes wrong in it is a sample, and nothing is left.

The campaign forks it, so that the worker starts with everything imported and shares no heap with its sisters.
It leads a process group of its own: Ctrl-C reaches the campaign alone, which then ends the worker in order.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn

from bench.core import leaks
from bench.core.target import Parts
from host.errors import DeadlinePassed, Failure
from host.linux import syscalls

GRACE_S = 5.0
FRAME_LIMIT_BYTES = 1 << 20
TELL_EVERY_S = 0.05


Job = Callable[[], "Parts | tuple[Parts, ...]"]


class Ran(NamedTuple):
    """What became of one run: the parts for its samples, when it began, how long it kept the worker."""

    parts: tuple[Parts, ...]
    began_unix_s: float
    took_s: float
    is_last: bool
    is_broken: bool = False


class _Gone(Exception):
    """The worker ended, or spoke nonsense, before it had told all its runs."""


def runs(job: Job, count: int, deadline_s: float, grace_s: float = GRACE_S) -> Iterator[Ran]:
    """Do the job `count` times in a fresh worker, each within `deadline_s`.

    A worker that hangs, dies or speaks nonsense ends the batch with one more `Ran` that says so. Leaving the
    iterator early ends the worker.
    """
    worker = _Worker(job, count)
    try:
        for left in reversed(range(count)):
            began_unix_s, began_s = time.time(), time.monotonic()
            try:
                began_unix_s, parts = worker.next(deadline_s)
            except DeadlinePassed:
                parts = (Parts("timeout", error=f"it had not ended after {deadline_s:g} s"),)
            except _Gone as gone:
                parts = (Parts("failed", error=str(gone)),)
            took_s, is_last = time.monotonic() - began_s, worker.is_broken or left == 0
            if is_last:
                worker.stop(grace_s)  # before its last run is told, so that the caller sees what it left
            yield Ran(parts, began_unix_s, took_s, is_last, worker.is_broken)
            if is_last:
                return
    finally:
        worker.stop(grace_s)


class _Worker:
    def __init__(self, job: Job, count: int) -> None:
        self.is_broken = False
        self._heard = b""
        self._owes_a_go = False
        self._fd, tell_fd = os.pipe2(os.O_CLOEXEC)
        go_fd, self._go_fd = os.pipe2(os.O_CLOEXEC)
        parent = os.getpid()
        known = leaks.children()
        self._pid = os.fork()
        if self._pid == 0:
            _work(job, count, tell_fd, go_fd, parent)
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(self._pid, self._pid)  # both sides set it: whoever comes first closes the race
        os.close(tell_fd)
        os.close(go_fd)
        self._pidfd = os.pidfd_open(self._pid)
        self._before = _reap_orphans(known | {self._pid})

    def next(self, deadline_s: float) -> tuple[float, tuple[Parts, ...]]:
        """The next report; DeadlinePassed or _Gone leave the worker broken."""
        if self._owes_a_go and not self._heard:
            self._owes_a_go = False
            with contextlib.suppress(BrokenPipeError):
                os.write(self._go_fd, b"g")
        until_s = time.monotonic() + deadline_s
        try:
            (size,) = struct.unpack("<I", self._read(4, until_s))
            if size > FRAME_LIMIT_BYTES:
                raise _Gone("the worker spoke nonsense: a report longer than 1 MiB")
            return _parts(self._read(size, until_s))
        except (_Gone, DeadlinePassed):
            self.is_broken = True
            raise

    def _read(self, size: int, until_s: float) -> bytes:
        while len(self._heard) < size:
            left_s = until_s - time.monotonic()
            # The worker's death is watched too: a child of its own may hold the pipe's other end.
            ready = select.select([self._fd, self._pidfd], [], [], max(left_s, 0))[0]
            if not ready:
                raise DeadlinePassed("the run did not end")
            if self._fd not in ready:
                raise _Gone(f"the worker {self._ended()}")
            chunk = os.read(self._fd, 1 << 16)
            if not chunk:
                raise _Gone(f"the worker {self._ended()}")
            self._heard += chunk
            self._owes_a_go = True
        data, self._heard = self._heard[:size], self._heard[size:]
        return data

    def _ended(self) -> str:
        if not select.select([self._pidfd], [], [], 1.0)[0]:
            return "closed its report"
        found = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOWAIT)
        assert found is not None
        if found.si_code == os.CLD_EXITED:
            return f"ended with status {found.si_status} and without a report"
        return f"was ended by {signal.Signals(found.si_status).name}"

    def stop(self, grace_s: float) -> None:
        """End the worker: ask it (it unwinds its context managers), then kill its whole group; reap it."""
        if self._fd < 0:
            return
        try:
            if not select.select([self._pidfd], [], [], 0.5 if not self.is_broken else 0)[0]:
                signal.pidfd_send_signal(self._pidfd, signal.SIGTERM)
                select.select([self._pidfd], [], [], grace_s)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(
                    self._pid, signal.SIGKILL
                )  # before the reaping, while nobody else can have the number
            os.waitpid(self._pid, 0)
        finally:
            if self._before is not None:
                signal.signal(signal.SIGCHLD, self._before)
            os.close(self._fd)
            os.close(self._go_fd)
            os.close(self._pidfd)
            self._fd = -1


def _reap_orphans(known: frozenset[int]) -> Any:
    """Reap what is not `known` as soon as it ends, and return the handler before (None: not the main thread).

    Orphans of daemons that a run started come to us (leaks.adopt_orphans): libvirtd waits 40 s for the pid
    of a QEMU that it has killed to be gone.
    """

    def reap(number: int, frame: object) -> None:
        for pid in leaks.children() - known:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)

    with contextlib.suppress(ValueError):
        return signal.signal(signal.SIGCHLD, reap)
    return None


def _parts(data: bytes) -> tuple[float, tuple[Parts, ...]]:
    try:
        began_unix_s, records = json.loads(data)
        return float(began_unix_s), tuple(Parts(**record) for record in records)
    except (ValueError, TypeError) as error:
        raise _Gone(f"the worker spoke nonsense: {error}") from None


def _work(job: Job, count: int, tell_fd: int, go_fd: int, parent: int) -> NoReturn:
    """The child's life; nothing of the campaign's own (its files, its finally clauses) may run here."""
    status = 1
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _close_all_but(tell_fd, go_fd)
        signal.signal(signal.SIGTERM, _leave)
        signal.signal(signal.SIGINT, _leave)
        # kill -9 of the campaign: we are asked to end, so that the instance goes in order.
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)
        _do(job, count, tell_fd, go_fd)
        status = 0
    except SystemExit:
        pass
    except BaseException as error:
        os.write(2, f"vmm bench worker: {error!r}\n".encode())
    finally:
        os._exit(status)


def _do(job: Job, count: int, tell_fd: int, go_fd: int) -> None:
    """Run and tell; in a batch 50 ms of runs at once, then wait until the campaign has saved them.

    Waking it for each run, or letting it write during the next, would disturb what is measured.
    """
    told_s, waiting = time.monotonic(), b""
    for left in reversed(range(count)):
        began_unix_s = time.time()
        waiting += _frame([began_unix_s, [vars(parts) for parts in _tried(job)]])
        if left == 0 or time.monotonic() - told_s > TELL_EVERY_S:
            _tell(tell_fd, waiting)
            if left:
                os.read(go_fd, 1)
            told_s, waiting = time.monotonic(), b""


def _close_all_but(*fds: int) -> None:
    """A target gone wild must not be able to write into the results file, nor hold its lock."""
    first = 3
    for fd in sorted(fds):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, 1 << 20)
    # A test's capture may have had these streams on a descriptor that is another one now.
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)


def _leave(number: int, frame: object) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(128 + number)


def _tried(job: Job) -> tuple[Parts, ...]:
    """The job's report, or what it raised as one."""
    try:
        done = job()
        return (done,) if isinstance(done, Parts) else done
    except DeadlinePassed as error:
        return (Parts("timeout", error=str(error), hint=error.hint or None),)
    except Failure as error:
        return (Parts("failed", error=str(error), hint=error.hint or None),)
    except Exception as error:
        import traceback

        where = traceback.extract_tb(sys.exc_info()[2])[-1]
        told = f"{type(error).__name__}: {error} ({os.path.basename(where.filename)}:{where.lineno})"
        return (Parts("failed", error=told),)


def _frame(record: list[Any]) -> bytes:
    data = json.dumps(record).encode()
    return struct.pack("<I", len(data)) + data


def _tell(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
