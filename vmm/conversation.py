"""One command in a machine and our end of it: output, input within its credit, signals, terminal size."""

from __future__ import annotations

import os
import select
import signal
import struct
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from host.exec_request import ExecRequest
from host.stdio import Stdio
from vmm import frames

if TYPE_CHECKING:
    from vmm.channel import Channel

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_READ_BYTES = 16 << 10
_LINUX_SIGPIPE = 13
_PATIENCE = 3  # so many Ctrl-C without an end, and we end ourselves


class Conversation:
    """A command that runs in the machine; `status()` passes everything on until it ends."""

    def __init__(
        self,
        channel: Channel,
        id_: int,
        request: ExecRequest,
        stdio: Stdio,
        on_started: Callable[[int], None] | None = None,
        on_output: Callable[[int, bytes], None] | None = None,
    ) -> None:
        self._channel, self._id, self._request, self._stdio = channel, id_, request, stdio
        self._on_started, self._on_output = on_started, on_output
        self._credit = frames.WINDOW_BYTES
        self._reads = request.interactive
        self._closed: set[int] = set()
        self._status: int | None = None
        self._interrupts = 0
        self._signals: tuple[int, int] | None = None
        self._restore: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []

    def __enter__(self) -> Conversation:
        if threading.current_thread() is threading.main_thread():
            self._catch_signals()
        if self._request.tty and os.isatty(self._stdio.stdin):
            self._take_terminal()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._restore:
            undo, words = self._restore.pop()
            undo(*words)

    # ---- what we take and give back ----

    def _catch_signals(self) -> None:
        read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._signals = (read_end, write_end)
        self._restore += [(os.close, (read_end,)), (os.close, (write_end,))]
        old = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        self._restore.append((signal.set_wakeup_fd, (old,)))
        for number in (*FORWARDED, signal.SIGWINCH):
            self._restore.append((signal.signal, (number, signal.signal(number, _noted))))

    def _take_terminal(self) -> None:
        import termios
        import tty

        fd = self._stdio.stdin
        self._restore.append((termios.tcsetattr, (fd, termios.TCSADRAIN, termios.tcgetattr(fd))))
        tty.setraw(fd, termios.TCSANOW)
        self._resize()

    def _resize(self) -> None:
        try:
            cols, rows = os.get_terminal_size(self._stdio.stdin)
        except OSError:
            return
        self._channel.send(frames.RESIZE, self._id, struct.pack("<HH", rows, cols))

    # ---- the pump ----

    def status(self) -> int:
        """Pass on until the command ends; its status."""
        if self._channel.has_kept:
            self._take_frames()
        while self._status is None:
            for fd in self._ready():
                if fd == self._channel.socket.fileno():
                    self._take_frames()
                elif self._signals and fd == self._signals[0]:
                    self._pass_signals(fd)
                else:
                    self._pass_input()
        return self._status

    def _ready(self) -> list[int]:
        poll = select.poll()
        poll.register(self._channel.socket, self._channel.interest)
        if self._signals:
            poll.register(self._signals[0], select.POLLIN)
        if self._reads and self._credit:
            poll.register(self._stdio.stdin, select.POLLIN)
        return [fd for fd, _ in poll.poll()]

    def _take_frames(self) -> None:
        for frame in self._channel.move():
            if frame.id != self._id:
                continue
            if frame.type == frames.STDOUT:
                self._write(1, self._stdio.stdout, frame.payload)
            elif frame.type == frames.STDERR:
                self._write(2, self._stdio.stderr, frame.payload)
            elif frame.type == frames.CREDIT:
                self._credit += struct.unpack("<I", frame.payload)[0]
            elif frame.type == frames.STARTED and self._on_started:
                self._on_started(struct.unpack("<IQ", frame.payload)[1])
            elif frame.type == frames.EXIT:
                self._end(frame.payload)

    def _end(self, payload: bytes) -> None:
        from vmm.channel import failed_start

        status, error = struct.unpack_from("<II", payload)
        if error:
            failure = failed_start(payload, self._request)
            if status == 125:
                raise failure
            self._write(2, self._stdio.stderr, f"vmm: {failure}\n".encode())
        self._status = status

    def _write(self, stream: int, fd: int, data: bytes) -> None:
        if self._on_output:
            self._on_output(stream, data)
        view = memoryview(data)
        try:
            while view and fd not in self._closed:
                view = view[os.write(fd, view) :]
        except BrokenPipeError:
            # As in a pipeline on one machine: who writes to a reader that is gone gets SIGPIPE.
            self._closed.add(fd)
            self._channel.send(frames.SIGNAL, self._id, struct.pack("<I", _LINUX_SIGPIPE))

    def _pass_input(self) -> None:
        try:
            data = os.read(self._stdio.stdin, min(self._credit, _READ_BYTES))
        except OSError:  # EIO: the terminal is gone
            data = b""
        self._reads = bool(data)
        self._credit -= len(data)
        self._channel.send(frames.STDIN, self._id, data)

    def _pass_signals(self, fd: int) -> None:
        for number in os.read(fd, 64):
            if number == signal.SIGWINCH:
                self._resize()
            elif number in FORWARDED:
                self._forward(number)

    def _forward(self, number: int) -> None:
        self._interrupts += number in (signal.SIGINT, signal.SIGTERM)
        if self._interrupts > _PATIENCE:
            raise KeyboardInterrupt
        self._channel.send(frames.SIGNAL, self._id, struct.pack("<I", number))


def _noted(number: int, where: FrameType | None) -> None:
    """Python's own handler must exist for the wake-up descriptor to be written."""
