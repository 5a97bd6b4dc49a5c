"""The serial console of a running machine on this terminal, with a key to leave it."""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Callable, Iterator
from pathlib import Path

from host.errors import WrongState
from host.stdio import Stdio
from vmm import process

DETACH_KEYS = b"\x1d"  # Ctrl-], as virsh console and telnet have it
_CHUNK_BYTES = 4096


def attach(
    path: Path,
    stdio: Stdio,
    detach: bytes = DETACH_KEYS,
    on_output: Callable[[], None] = lambda: None,
) -> bool:
    """Join the console at the socket `path` until it hangs up (False) or the detach key is typed (True).

    Raises WrongState when the machine does not run.
    """
    try:
        line = process.call(path)
    except (FileNotFoundError, ConnectionRefusedError):
        raise WrongState("cannot attach to", path.parent.name, "it does not run") from None
    with line, raw(stdio.stdin):
        return _pass_on(line.fileno(), stdio, detach, on_output)


def _pass_on(line: int, stdio: Stdio, detach: bytes, on_output: Callable[[], None]) -> bool:
    poll = select.poll()
    poll.register(line, select.POLLIN)
    poll.register(stdio.stdin, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            data = os.read(fd, _CHUNK_BYTES)
            if fd == line:
                if not data:
                    return False
                on_output()
                _write(stdio.stdout, data)
            elif not data:
                poll.unregister(fd)  # end of input: the console goes on
            else:
                before, key, _ = data.partition(detach)
                _write(line, before)
                if key:
                    return True


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


@contextlib.contextmanager
def raw(fd: int) -> Iterator[None]:
    """While it lasts, the terminal passes every key on, and is put back however we leave."""
    if not os.isatty(fd):
        yield
        return
    import termios
    import tty

    before = termios.tcgetattr(fd)
    try:
        tty.setraw(fd)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
