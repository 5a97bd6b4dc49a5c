"""Pseudo-terminals: made in the container's own devpts, right size from the first byte, relayed in raw mode.

pty(7), ioctl_tty(2). The launcher (guest/launch.c) makes the pair after its devpts is mounted, so that
/dev/pts/0 and ttyname(3) hold inside; the master travels to the parent over a socket (SCM_RIGHTS), or stays
with the helper.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Callable

from host import rawsignal as signal
from host.typing import NamedTuple

_TIOCSWINSZ = 0x5414
_TIOCGWINSZ = 0x5413
_DEFAULT_SIZE = (24, 80)
_WINDOW = struct.Struct("HHHH")


class Wish(NamedTuple):
    """A terminal for the command: its size in characters and the user it belongs to."""

    rows: int
    columns: int
    uid: int
    console: bool = True


def size_of(fd: int) -> tuple[int, int]:
    """Rows and columns of a terminal; 24x80 where `fd` is none, since programs divide by them."""
    try:
        rows, columns, _, _ = _WINDOW.unpack(fcntl.ioctl(fd, _TIOCGWINSZ, bytes(_WINDOW.size)))
    except (OSError, ValueError):  # no terminal, or no descriptor at all
        return _DEFAULT_SIZE
    return (rows, columns) if rows and columns else _DEFAULT_SIZE


def resize(fd: int, rows: int, columns: int) -> None:
    """Set the size; the foreground process group gets SIGWINCH from the kernel."""
    fcntl.ioctl(fd, _TIOCSWINSZ, _WINDOW.pack(rows, columns, 0, 0))


class Relay:
    """Carry bytes between the user's descriptors and the master until the far side hangs up.

    `ended` is asked whenever a child changes; `forward` gets each signal that is meant for the command, and
    `keep` what the command says.
    """

    def __init__(
        self, stdin: int, stdout: int, master: int, keep: Callable[[bytes], None] | None = None
    ) -> None:
        self.stdin, self.stdout, self.master, self.keep = stdin, stdout, master, keep

    def carry(
        self, ended: Callable[[], bool], forward: Callable[[int], None], signals: frozenset[int]
    ) -> None:
        """Run until `ended`; the user's terminal is raw meanwhile and as it was afterwards."""
        with raw(self.stdin), Wakeup({signal.SIGCHLD, signal.SIGWINCH, *signals}) as wakeup:
            self._follow_size()
            self._pump(ended, forward, wakeup)
        self._drain()

    def _pump(self, ended: Callable[[], bool], forward: Callable[[int], None], wakeup: Wakeup) -> None:
        import select

        poll = select.poll()
        for fd in (self.stdin, self.master, wakeup.fd):
            poll.register(fd, select.POLLIN)
        while not ended():
            for fd, events in poll.poll(1000):
                if fd == wakeup.fd:
                    self._signals(wakeup, forward)
                elif fd == self.master and (not events & select.POLLIN or not self._output()):
                    poll.unregister(fd)  # every slave is closed; the command's end comes by SIGCHLD
                elif fd == self.stdin and not self._input():
                    poll.unregister(fd)

    def _signals(self, wakeup: Wakeup, forward: Callable[[int], None]) -> None:
        for number in wakeup.numbers():
            if number == signal.SIGWINCH:
                self._follow_size()
            elif number != signal.SIGCHLD:
                forward(number)

    def _follow_size(self) -> None:
        if os.isatty(self.stdin):
            resize(self.master, *size_of(self.stdin))

    def _output(self) -> bool:
        try:
            data = os.read(self.master, 65536)
        except OSError as error:
            if error.errno == errno.EIO:  # pty(7): all slaves closed
                return False
            raise
        if self.keep and data:
            self.keep(data)
        write_all(self.stdout, data)
        return bool(data)

    def _input(self) -> bool:
        data = os.read(self.stdin, 65536)
        if not data:
            write_all(self.master, b"\x04")  # end of file as a terminal says it
            return False
        write_all(self.master, data)
        return True

    def _drain(self) -> None:
        import select

        poll = select.poll()
        poll.register(self.master, select.POLLIN)
        while any(events & select.POLLIN for _, events in poll.poll(0)):
            if not self._output():
                return


class Keys:
    """Find the sequence that leaves the command running among the keys typed."""

    def __init__(self, sequence: bytes) -> None:
        self.sequence, self.detached, self._held = sequence, False, b""

    def take(self, data: bytes) -> bytes:
        """The bytes to send on; a started sequence is held back until it is whole or broken."""
        data = self._held + data
        position = data.find(self.sequence) if self.sequence else -1
        if position >= 0:
            self.detached = True
            return data[:position]
        begun = range(len(self.sequence) - 1, 0, -1)
        length = next((n for n in begun if data.endswith(self.sequence[:n])), 0)
        self._held = data[len(data) - length :]
        return data[: len(data) - length]


def write_all(fd: int, data: bytes) -> None:
    """Write all of it, however often write(2) stops short."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


class raw:
    """The user's terminal in raw mode: every key goes to the command, Ctrl-C too."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __enter__(self) -> None:
        import termios
        import tty

        self.before = termios.tcgetattr(self.fd) if self.fd >= 0 and os.isatty(self.fd) else None
        if self.before:
            tty.setraw(self.fd)

    def __exit__(self, *_: object) -> None:
        import termios

        if self.before:
            termios.tcsetattr(self.fd, termios.TCSADRAIN, self.before)


class Wakeup:
    """Signals as readable bytes (signal.set_wakeup_fd), so that poll never misses one."""

    def __init__(self, numbers: set[int]) -> None:
        self._numbers = numbers

    def __enter__(self) -> Wakeup:
        self.fd, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._handlers = {number: signal.signal(number, _nothing) for number in self._numbers}
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, self._numbers)
        return self

    def numbers(self) -> bytes:
        """The signals that came, one byte each."""
        return os.read(self.fd, 4096)

    def __exit__(self, *_: object) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        os.close(self.fd)
        os.close(self._write)


def _nothing(number: int, frame: object) -> None:
    """The wakeup descriptor tells it; a handler must exist for Python to write there."""
