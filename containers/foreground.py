"""A container in the foreground: it lives no longer than the process that started it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from containers import launch, runtime
from host import rawsignal as signal
from host.edges import Edges
from host.stdio import Stdio
from host.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from containers.container import Container
    from containers.recording import Log
    from containers.terminal import Wish

# Signals that a person or a supervisor sends to the command through us; the rest is ours.
PROXIED = frozenset(
    (
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGTERM,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGCONT,
    )
)
_IMPATIENCE = 3


def run(container: Container, stdio: Stdio, edges: Edges) -> int:
    """Start, wait, clean: see Container.run. How it ended is kept for `ls`, unless it goes with its run."""
    try:
        status = _seen_through(container, stdio, edges)
    except BaseException:
        runtime.forget(container.run_dir)
        raise
    if container.spec.ephemeral:
        runtime.forget(container.run_dir)
    else:
        runtime.write_status(container.run_dir, status)
    edges.mark("t9")
    return status


def _seen_through(container: Container, stdio: Stdio, edges: Edges) -> int:
    ready = container.launch(terminal=stdio if stdio.tty else None)
    container.make_folders()
    container.make_etc()
    edges.mark("t1")
    log = None if container.spec.ephemeral else _log(container)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, PROXIED | {signal.SIGCHLD})
    try:
        return _supervised(ready, stdio, edges, container.before_go, log)
    except launch.CannotExecute as error:
        os.write(stdio.stderr, f"vmm: {error}\n".encode())
        return error.exit_status
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if log:
            log.close()
        container.clean()
        if container.oom_killed():
            limit = container.spec.limits.memory_bytes or 0
            os.write(stdio.stderr, b"vmm: out of memory: the limit of %d MiB was used up\n" % (limit >> 20))


def _log(container: Container) -> Log:
    from containers.recording import Log

    return Log(container)


def _supervised(
    ready: launch.Launch, stdio: Stdio, edges: Edges, before_go: Callable[[int], None], log: Log | None
) -> int:
    if stdio.tty:
        return on_terminal(ready, stdio, edges, before_go, log.keep if log else None)
    if log is None:
        return plain(ready, stdio, edges, before_go)
    from containers import recording

    return recording.run(ready, stdio, edges, before_go, log)


def plain(ready: launch.Launch, stdio: Stdio, edges: Edges, before_go: Callable[[int], None]) -> int:
    """Start with the caller's own descriptors, and wait; without `interactive` stdin is /dev/null."""
    null = -1 if stdio.interactive else os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    if ready.plan.identity.uid:
        open_to_user((stdio.stdout, stdio.stderr))
    try:
        streams = launch.Streams((null if null >= 0 else stdio.stdin, stdio.stdout, stdio.stderr))
        pid = launch.start(ready, streams, edges, before_go)
    finally:
        runtime.close_all([null])
    return watch(pid)


def open_to_user(fds: tuple[int, ...]) -> None:
    """Let a command that is not root open /dev/stdout anew, as under docker: the pipe behind it is root's.

    Anonymous pipes only: whoever has none of their descriptors cannot reach them (proc(5), /proc/PID/fd).
    """
    import stat

    for fd in fds:
        mode = os.fstat(fd).st_mode
        if stat.S_ISFIFO(mode) and os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:"):
            with contextlib.suppress(PermissionError):  # another user's pipe
                os.fchmod(fd, stat.S_IMODE(mode) | 0o022)


def wish(stdio: Stdio, uid: int, console: bool) -> Wish:
    """The terminal to make inside: as large as the user's own."""
    from containers.terminal import Wish, size_of

    return Wish(*size_of(stdio.stdin), uid, console)


def watch(pid: int) -> int:
    """Wait for a child and pass signals on to it; they are blocked, so none is lost and none interrupts."""
    patience = Patience(pid)
    try:
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return exit_status(status)
            number = signal.sigwait(PROXIED | {signal.SIGCHLD})
            if number != signal.SIGCHLD:
                patience.forward(number)
    except BaseException:
        launch.put_down(pid)
        raise


def exit_status(wait_status: int) -> int:
    """The status as a shell gives it: 128 + n for signal n."""
    code = os.waitstatus_to_exitcode(wait_status)
    return 128 - code if code < 0 else code


class Patience:
    """Signals for the command; pid 1 of a namespace ignores what it does not handle, so the third time
    means it.
    """

    def __init__(self, pid: int) -> None:
        self.pid, self.asked = pid, 0

    def forward(self, number: int) -> None:
        """Pass one signal on."""
        self.asked += number in (signal.SIGINT, signal.SIGTERM)
        os.kill(self.pid, signal.SIGKILL if self.asked >= _IMPATIENCE else number)


def on_terminal(
    ready: launch.Launch,
    stdio: Stdio,
    edges: Edges,
    before_go: Callable[[int], None],
    keep: Callable[[bytes], None] | None = None,
) -> int:
    """Start on a terminal of its own, and carry it until the command ends."""
    import socket

    ours, childs = socket.socketpair()
    with ours:
        with childs:
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            try:
                streams = launch.Streams((null, null, null), master_to=childs)
                pid = launch.start(ready, streams, edges, before_go)
            finally:
                os.close(null)
        master = socket.recv_fds(ours, 1, 1)[1][0]
    return relay(pid, stdio, master, keep)


def relay(pid: int, stdio: Stdio, master: int, keep: Callable[[bytes], None] | None = None) -> int:
    """Carry the terminal of a child until it ends; its exit status. `keep` gets what it said."""
    from containers.terminal import Relay

    ends: list[int] = []

    def ended() -> bool:
        if not ends:
            done, status = os.waitpid(pid, os.WNOHANG)
            ends.extend([exit_status(status)] if done else [])
        return bool(ends)

    try:
        Relay(stdio.stdin, stdio.stdout, master, keep).carry(ended, Patience(pid).forward, PROXIED)
        return ends[0]
    except BaseException:
        if not ends:
            launch.put_down(pid)
        raise
    finally:
        os.close(master)
