"""Attach to a detached container: its output from now on, our keys into it, our window's size for its
terminal.
"""

from __future__ import annotations

import os
import select
import signal
from collections import deque
from typing import TYPE_CHECKING

from containers import detached, logs, terminal
from host.errors import Unsupported, WrongState
from host.linux import syscalls as sc
from host.stdio import Stdio

if TYPE_CHECKING:
    from containers.container import Container

DETACH_KEYS = b"\x10\x11"  # Ctrl-P Ctrl-Q
_TTY_MAJOR = 136  # Documentation/admin-guide/devices.txt: Unix98 PTY slaves


class Detached(Exception):
    """The user typed the detach keys."""


def attach(container: Container, stdio: Stdio, detach_keys: bytes = DETACH_KEYS, whole: bool = False) -> int:
    """Follow it until it ends, and return its status; 0 where the user detached. `whole`: from its birth on.

    Raises WrongState where it does not run, Unsupported where it was started in the foreground.
    """
    if not (container.run_dir / "stdout").exists():
        if container.pid() is None:
            raise WrongState(
                "cannot attach to", container.spec.name, "it is not running", "vmm start it first"
            )
        why = "it runs in the foreground of another command"
        raise Unsupported(
            "cannot attach to", container.spec.name, why, "vmm exec -it starts a shell beside it"
        )
    session = _Session(container, stdio, detach_keys, whole)
    try:
        with terminal.raw(stdio.stdin if container.spec.tty else -1):
            session.run()
    except Detached:
        return 0
    finally:
        session.close()
    return container.wait(10)


class _Session:
    """One attached user: descriptors and where the log was when it began."""

    def __init__(self, container: Container, stdio: Stdio, detach_keys: bytes, whole: bool) -> None:
        self.container, self.stdio = container, stdio
        self.keys = terminal.Keys(detach_keys)
        self.fds: list[int] = []
        self.reader = logs.Reader(container.folder / "log")
        if not whole:
            deque(self.reader.records(), maxlen=0)  # what was said before is for `vmm logs`
        self.input = self._input()
        self.events = sc.inotify(os.fsencode(container.folder), sc.IN_MODIFY | sc.IN_CREATE | sc.IN_MOVED_TO)
        self.pidfd = detached.pidfd(container)
        self.fds += [fd for fd in (self.input, self.events, self.pidfd) if fd is not None]

    def _input(self) -> int | None:
        try:
            return os.open(self.container.run_dir / "stdin", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None  # it was not started with -i

    def run(self) -> None:
        """Carry until the container ended."""
        poll = select.poll()
        for fd in (self.events, self.pidfd, self.stdio.stdin if self.input is not None else None):
            if fd is not None:
                poll.register(fd, select.POLLIN)
        self._size()
        with terminal.Wakeup({signal.SIGWINCH}) as wakeup:
            poll.register(wakeup.fd, select.POLLIN)
            while self.pidfd is not None:
                self._output()
                for fd, _ in poll.poll(1000):
                    if fd == self.pidfd:
                        return self._last_words()
                    if fd == self.events:
                        os.read(fd, 4096)
                    elif fd == wakeup.fd:
                        wakeup.numbers()
                        self._size()
                    elif not self._keys():
                        poll.unregister(fd)

    def _output(self) -> None:
        for record in self.reader.records():
            terminal.write_all(
                self.stdio.stderr if record.stream == logs.STDERR else self.stdio.stdout, record.data
            )

    def _last_words(self) -> None:
        detached.wait_drained(self.container)
        self._output()

    def _keys(self) -> bool:
        data = os.read(self.stdio.stdin, 65536)
        assert self.input is not None
        if not data:
            if self.container.spec.tty:
                terminal.write_all(self.input, b"\x04")
            return False
        terminal.write_all(self.input, self.keys.take(data))
        if self.keys.detached:
            raise Detached
        return True

    def _size(self) -> None:
        """Our window's size for its terminal, the first of its devpts."""
        pid = self.container.pid()
        if not self.container.spec.tty or pid is None or not os.isatty(self.stdio.stdin):
            return
        try:
            root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return
        try:
            inside = sc.RESOLVE_IN_ROOT | sc.RESOLVE_NO_SYMLINKS
            slave = sc.openat2(root, b"dev/pts/0", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK, inside)
            try:
                if os.major(os.fstat(slave).st_rdev) == _TTY_MAJOR:
                    terminal.resize(slave, *terminal.size_of(self.stdio.stdin))
            finally:
                os.close(slave)
        except OSError:
            pass  # it closed its terminal: there is nothing to size
        finally:
            os.close(root)

    def close(self) -> None:
        """Let go of everything."""
        for fd in self.fds:
            os.close(fd)
        self.reader.close()
