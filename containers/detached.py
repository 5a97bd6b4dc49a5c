"""A container that nobody holds by the hand: it survives who started it and who supervises it.

Its pid 1 is the C helper: it holds the terminal and writes the exit status. Output goes into FIFOs that the
container itself holds open for reading and writing, so that no reader's death is ever felt; the supervisor
of the home reads them into the log.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
import sys
import time
from pathlib import Path

from containers import launch, logs, restarts, runtime
from host import rawsignal as signal
from host import records, signals
from host.edges import Edges
from host.errors import DeadlinePassed, Failure, WrongState
from host.stdio import Stdio
from host.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from containers.container import Container

_FOLLOW_PAUSE_MS = 500  # an upper bound only: inotify wakes earlier
_CARRIED_PAUSE_MS = 20


def start(container: Container, edges: Edges) -> None:
    """Start detached; returns once the command executes. Raises what the start met, with nothing left of
    it.
    """
    container.begin_anew()
    container.run_dir.mkdir(parents=True, mode=0o700)
    try:
        _start(container, container.run_dir, edges)
    except BaseException:
        container.clean()
        runtime.forget(container.run_dir)
        raise
    summon_supervisor(container.home, container.run_dir.parent)


def restart(container: Container, edges: Edges) -> None:
    """Start again what ended, for the supervisor: the run directory's notes stay."""
    (container.run_dir / "status").unlink(missing_ok=True)
    try:
        _start(container, container.run_dir, edges)
    except BaseException:
        container.clean()
        raise


def _start(container: Container, run: Path, edges: Edges) -> None:
    spec = container.spec
    container.make_folders()
    container.make_etc()
    ready = container.launch("hold", terminal=_NO_TERMINAL if spec.tty else None)
    edges.mark("t1")
    fds: list[int] = []
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    try:
        fds.append(os.open(run / "status", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))
        fds.append(_stdin(run, spec.interactive))
        fds.append(runtime.make_fifo(run / "stdout"))
        fds.append(fds[-1] if spec.tty else runtime.make_fifo(run / "stderr"))
        if ready.plan.identity.uid:
            _open_to_user(*fds[1:])
        streams = launch.Streams((fds[1], fds[2], fds[3]), status=fds[0])
        launch.start(ready, streams, edges, container.before_go, death_signal=0, orphan=True)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        runtime.close_all(list(dict.fromkeys(fds)))


def _open_to_user(stdin: int, *outputs: int) -> None:
    """A command that is not root may open /dev/stdout anew; only root gets to the FIFOs by their path."""
    for fd in outputs:
        os.fchmod(fd, 0o622)
    if stat.S_ISFIFO(os.fstat(stdin).st_mode):
        os.fchmod(stdin, 0o644)


_NO_TERMINAL = Stdio(-1, -1, -1, tty=True)


def _stdin(run: Path, interactive: bool) -> int:
    if interactive:
        return runtime.make_fifo(run / "stdin")
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


def summon_supervisor(home: Path, base: Path) -> None:
    """Ring the supervisor of the home, and start one where there is none. Never waits for it."""
    ring(base)
    try:
        with records.lock(base / "supervisor.lock", wait_s=0) as lock:
            _spawn_supervisor(home, base, lock)
    except DeadlinePassed:
        pass  # it lives; on its way out it looks once more after letting go of the lock


def ring(base: Path) -> None:
    """Have the supervisor, if there is one, look at every container anew."""
    try:
        bell = os.open(base / "supervisor.bell", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.write(bell, b"!")
        finally:
            os.close(bell)
    except OSError:
        pass  # no FIFO, nobody behind it, or full of rings: its lock tells


def _spawn_supervisor(home: Path, base: Path, lock: int) -> None:
    """The child inherits the lock held already (flock(2) belongs to the open file): it stays the only one."""
    os.set_inheritable(lock, True)
    # -P: nothing is imported from the directory that the user happens to stand in
    argv = [sys.executable, "-P", "-m", "containers.supervisor", str(home), str(base), str(lock)]
    null = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0)
    actions = [null, (os.POSIX_SPAWN_DUP2, 0, 1), (os.POSIX_SPAWN_DUP2, 0, 2)]
    os.posix_spawn(sys.executable, argv, os.environ, file_actions=actions, setsid=True)


def pidfd(container: Container) -> int | None:
    """A pidfd of the living first process; None where there is none."""
    init = runtime.living(container.run_dir)
    if init is None:
        return None
    try:
        fd = os.pidfd_open(init.pid)
    except ProcessLookupError:
        return None
    if runtime.start_ticks(init.pid) != init.start_ticks:
        os.close(fd)
        return None
    return fd


def end(container: Container) -> None:
    """SIGKILL to everything in the container, a frozen one too; its status is then ours to tell."""
    init = runtime.living(container.run_dir)
    if init is None:
        return
    if container.status() is None:
        runtime.write_status(container.run_dir, 128 + signal.SIGKILL)  # the helper dies and cannot tell
    try:
        os.kill(init.pid, signal.SIGKILL)  # pid 1 takes its namespace with it
    except ProcessLookupError:
        pass
    if container.cgroup().frozen():
        container.cgroup().thaw()


def wait_gone(container: Container, timeout_s: float | None) -> bool:
    """Wait for the end of the first process; False where it still ran after `timeout_s`."""
    fd = pidfd(container)
    if fd is None:
        return True
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(None if timeout_s is None else max(0, timeout_s * 1000)))
    finally:
        os.close(fd)


def wait(container: Container, timeout_s: float | None) -> int:
    """The exit status once it ended. Raises DeadlinePassed, and Failure where nobody saw the status."""
    if container.state() == "created":
        raise WrongState("cannot wait for", container.spec.name, "it was never started", "vmm start it first")
    if not wait_gone(container, timeout_s):
        raise DeadlinePassed("cannot wait for", container.spec.name, f"it still runs after {timeout_s:g} s")
    status = container.status()
    if status is None:
        raise Failure(
            "cannot tell the exit status of", container.spec.name, "nobody saw its end: exited (unknown)"
        )
    return status


def kill(container: Container, number: int) -> None:
    """Send a signal to the command; SIGKILL ends every process, a frozen one too."""
    init = runtime.living(container.run_dir)
    if init is None:
        raise WrongState("cannot signal", container.spec.name, "it is not running")
    if number != signal.SIGKILL:
        os.kill(init.pid, number)
        return
    restarts.mark_stopped(container)
    end(container)


def stop(container: Container, time_s: float) -> str:
    """Ask it to end, and kill it after `time_s`; the answer says why asking was not enough, or is empty."""
    if runtime.living(container.run_dir) is None:
        container.stay_down()
        container.clean()
        return ""
    if container.cgroup().frozen():
        container.cgroup().thaw()
    restarts.mark_stopped(container)
    number = signals.number(container.spec.stop_signal)
    with contextlib.suppress(WrongState, ProcessLookupError):  # it may end by itself meanwhile
        kill(container, number)
    why = ""
    if not wait_gone(container, time_s):
        why = _why_not_gone(container, number, time_s) if time_s > 0 else ""  # 0: nobody was asked
        end(container)
        if not wait_gone(container, 10):
            raise DeadlinePassed("cannot stop", container.spec.name, "it lives 10 s after SIGKILL (state D?)")
    container.clean()
    return why


def _why_not_gone(container: Container, number: int, time_s: float) -> str:
    init = runtime.living(container.run_dir)
    pid = _command_pid(init.pid) if init else 0
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return ""
    fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    bit, name = 1 << (number - 1), signals.name(number)
    if int(fields["SigIgn"], 16) & bit:
        reason = f"ignores {name}"
    elif int(fields["SigBlk"], 16) & bit:
        reason = f"blocks {name}"
    elif int(fields["SigCgt"], 16) & bit:
        reason = f"caught {name} and went on"
    elif fields["NSpid"].split()[-1] == "1":
        reason = f"is pid 1 and has no handler for {name}, which the kernel then drops (use --init)"
    else:
        reason = f"was in state {fields['State']}"
    return f"{container.spec.name}: killed after {time_s:g} s, as its process {fields['Name']} {reason}"


def _command_pid(init: int) -> int:
    """The command itself: the helper's first child, 0 once that has ended, or pid 1 without a helper."""
    try:
        if Path(f"/proc/{init}/cmdline").read_bytes().startswith(b"vmm-guest\0"):
            children = Path(f"/proc/{init}/task/{init}/children").read_text().split()
            return int(children[0]) if children else 0
    except OSError:
        pass
    return init


def print_logs(
    container: Container, follow: bool, tail: int | None, timestamps: bool, out_fd: int, since_unix_s: float
) -> None:
    """Write the log to `out_fd`; with `follow` until the container ended."""
    reader = logs.Reader(container.folder / "log")
    try:
        found = logs.since(reader.records(), since_unix_s) if since_unix_s else reader.records()
        if tail is not None:
            found = iter(logs.tail(found, tail))
        _write(out_fd, found, timestamps)
        if follow:
            _follow(container, reader, timestamps, out_fd)
    except BrokenPipeError:
        pass  # the reader has enough: `vmm logs | head`
    finally:
        reader.close()


def _follow(container: Container, reader: logs.Reader, timestamps: bool, out_fd: int) -> None:
    from host.linux import syscalls as sc

    watch = sc.inotify(os.fsencode(container.folder), sc.IN_MODIFY | sc.IN_CREATE | sc.IN_MOVED_TO)
    try:
        poll = select.poll()
        poll.register(watch, select.POLLIN)
        while True:
            running = runtime.living(container.run_dir) is not None
            carried = not running and _is_carried(container)
            _write(out_fd, reader.records(), timestamps)
            if not (running or carried):
                return _last_words(container, reader, timestamps, out_fd)
            if poll.poll(_CARRIED_PAUSE_MS if carried else _FOLLOW_PAUSE_MS):
                os.read(watch, 4096)
    finally:
        os.close(watch)


def _is_carried(container: Container) -> bool:
    """Whether a foreground `vmm run` still takes down what the container said: it holds the folder, and
    writes the status when it is done (instances.registry.owned).
    """
    return container.status() is None and not records.is_free(container.folder)


def _last_words(container: Container, reader: logs.Reader, timestamps: bool, out_fd: int) -> None:
    wait_drained(container)
    _write(out_fd, reader.records(), timestamps)


def settle(container: Container) -> None:
    """Let a living supervisor finish with a container that ended: it must not write after rm."""
    base = container.run_dir.parent
    if runtime.recorded(container.run_dir) is None:
        return  # it never ran: the supervisor has nothing to finish
    try:
        with records.lock(base / "supervisor.lock", wait_s=0):
            pass  # nobody looks after it
    except DeadlinePassed:
        wait_drained(container)


def wait_drained(container: Container) -> None:
    """Wait until the supervisor has drained the FIFOs, which it then removes: nothing more will come."""
    deadline, pause_s = time.monotonic() + _DRAIN_S, 0.001
    while (container.run_dir / "stdout").exists() and time.monotonic() < deadline:
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.02)


_DRAIN_S = 2.0


def _write(out_fd: int, found: object, timestamps: bool) -> None:
    for line in logs.lines(iter(found), timestamps):  # type: ignore[call-overload]
        view = memoryview(line)
        while view:
            view = view[os.write(out_fd, view) :]
