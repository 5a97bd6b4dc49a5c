"""What a command in the foreground says: passed on to its user and kept in the log.

Only for a container that outlives its run (without --rm): `vmm logs` then tells what it said, as docker's.
The others write straight to their user's descriptors.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable

from containers import foreground, launch, logs, runtime
from containers.terminal import Wakeup
from host import rawsignal as signal
from host.edges import Edges
from host.stdio import Stdio
from host.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from containers.container import Container

_READ_BYTES = 1 << 16
_WRITE_BYTES = 4096  # PIPE_BUF: what poll(2) promises of a pipe that is writable, so that no write blocks


class Log:
    """The log of a container; a full disk loses output, never the command."""

    def __init__(self, container: Container) -> None:
        spec = container.spec
        self._writer = logs.Writer(container.folder / "log", spec.log_bytes, spec.log_files)

    def keep(self, data: bytes, stream: int = logs.STDOUT) -> None:
        """Append what was said."""
        try:
            self._writer.append(stream, data)
        except OSError:
            pass

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


def run(ready: launch.Launch, stdio: Stdio, edges: Edges, before_go: Callable[[int], None], log: Log) -> int:
    """Start with pipes of ours for its output, and carry what comes through them until it ended."""
    inside, ways = _ways(stdio, log)
    if ready.plan.identity.uid:
        foreground.open_to_user(inside)
    null = -1 if stdio.interactive else os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        streams = launch.Streams((null if null >= 0 else stdio.stdin, *inside))
        pid = launch.start(ready, streams, edges, before_go)
    except BaseException:
        runtime.close_all([way.source for way in ways])
        raise
    finally:
        runtime.close_all([null, *dict.fromkeys(inside)])
    try:
        return _Carrier(pid, ways).carry()
    except BaseException:
        launch.put_down(pid)
        raise
    finally:
        runtime.close_all([way.source for way in ways])


class _Way:
    """From one pipe of the command to one descriptor of its user."""

    def __init__(self, source: int, target: int, stream: int, log: Log) -> None:
        self.source, self.target, self.stream, self.log = source, target, stream, log
        self.waiting = b""

    def take(self) -> None:
        """Read what was said; at its end, close."""
        try:
            self.waiting = os.read(self.source, _READ_BYTES)
        except BlockingIOError:
            return
        if self.waiting:
            self.log.keep(self.waiting, self.stream)
        else:
            self.close()

    def give(self) -> None:
        """Pass some of it on. Where nobody reads any more, the command shall hear of it: SIGPIPE."""
        try:
            self.waiting = self.waiting[os.write(self.target, self.waiting[:_WRITE_BYTES]) :]
        except OSError:
            self.close()

    def close(self) -> None:
        """Read no more."""
        runtime.close_all([self.source])
        self.source, self.waiting = -1, b""


def _ways(stdio: Stdio, log: Log) -> tuple[tuple[int, int], list[_Way]]:
    """The command's stdout and stderr, and where they lead.

    Both lead into one pipe where both of the user's are the same file, so that their order stays.
    """
    out, for_out = _pipe()
    ways = [_Way(out, stdio.stdout, logs.STDOUT, log)]
    if os.path.sameopenfile(stdio.stdout, stdio.stderr):
        return (for_out, for_out), ways
    errors, for_errors = _pipe()
    return (for_out, for_errors), [*ways, _Way(errors, stdio.stderr, logs.STDERR, log)]


def _pipe() -> tuple[int, int]:
    read, write = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(read, False)
    return read, write


class _Carrier:
    """The loop until the command ended and all that it said was passed on."""

    def __init__(self, pid: int, ways: list[_Way]) -> None:
        self.pid, self.ways = pid, ways
        self.patience = foreground.Patience(pid)
        self.over = False

    def carry(self) -> int:
        """The exit status; a signal after the end leaves the rest unsaid, since nobody reads."""
        with Wakeup({signal.SIGCHLD, *foreground.PROXIED}) as wakeup:
            while (status := self._ended()) is None:
                self._turn(wakeup, None)
            while self._turn(wakeup, None if any(way.waiting for way in self.ways) else 0):
                pass
        return status

    def _ended(self) -> int | None:
        ended, status = os.waitpid(self.pid, os.WNOHANG)
        self.over = bool(ended)
        return foreground.exit_status(status) if ended else None

    def _turn(self, wakeup: Wakeup, pause_ms: int | None) -> int:
        """Wait, and do what can be done; how much that was."""
        poll, acts = select.poll(), {}
        poll.register(wakeup.fd, select.POLLIN)
        for way in self.ways:
            if way.waiting:
                poll.register(way.target, select.POLLOUT)
                acts[way.target] = way.give
            elif way.source >= 0:
                poll.register(way.source, select.POLLIN)
                acts[way.source] = way.take
        ready = poll.poll(pause_ms)
        for fd, _ in ready:
            if fd == wakeup.fd:
                self._signals(wakeup)
            else:
                acts[fd]()
        return len(ready)

    def _signals(self, wakeup: Wakeup) -> None:
        for number in wakeup.numbers():
            if number == signal.SIGCHLD:
                continue
            if not self.over:
                self.patience.forward(number)
                continue
            for way in self.ways:
                way.close()
