"""start, kill, delete, pause, resume, run: what moves a container from one status to the next."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path

from containers.oci import child, creating, hooks, states
from containers.oci.bundle import Bundle
from containers.oci.creating import Options
from containers.oci.joining import wait_child
from containers.oci.states import State
from host.errors import DeadlinePassed, Failure, NotFound, WrongState


def start(state: State) -> list[str]:
    """Let the created process run; raises what its exec said.

    Returns the failures of poststart hooks: a warning, up to runtime-spec 1.2 (runtime.md, lifecycle 9).
    """
    status = state.status()
    if status != "created":
        raise WrongState("cannot start", state.id, f"it is {status}")
    report = os.open(state.folder / "report", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _write_go(state)
        os.set_blocking(report, True)
        said = b"".join(iter(lambda: os.read(report, 4096), b""))
    finally:
        os.close(report)
        for name in ("start", "report"):
            (state.folder / name).unlink(missing_ok=True)
    if said:
        _wait_dead(state)
        _run_all(state, "poststop", "stopped")
        raise creating.worded(said[1:], state.bundle.config["process"])
    return _run_all(state, "poststart", "running")


def _write_go(state: State) -> None:
    try:
        fd = os.open(state.fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise WrongState("cannot start", state.id, "its process is gone") from None
        raise
    try:
        os.write(fd, child.GO)
    finally:
        os.close(fd)


def _wait_dead(state: State, deadline_s: float = 10.0) -> None:
    until = time.monotonic() + deadline_s
    while state.alive():
        if time.monotonic() > until:
            raise DeadlinePassed("cannot end", state.id, f"it lives {deadline_s:g} s after SIGKILL")
        time.sleep(0.001)


def _run_all(state: State, name: str, status: str) -> list[str]:
    """Run all hooks of a moment whose failures are warnings, and tell these."""
    told = []
    for hook in hooks.listed(state.bundle, name):
        try:
            hooks.run_one(name, hook, state.document(status))
        except Failure as error:
            told.append(str(error))
    return told


def kill(state: State, number: int, everyone: bool = False) -> None:
    """Send a signal to the container's process, or to all of its group; WrongState where it does not run."""
    status = state.status()
    if everyone and status == "stopped":
        state.group().kill(number)
        return
    if status in ("stopped", "creating"):
        raise WrongState("cannot kill", state.id, f"container not running: it is {status}")
    group = state.group()
    if everyone or not _own_pids(state):
        group.kill(number)
    else:
        _send(state.pid, number)
    if number == signal.SIGKILL and group.frozen():
        group.freeze(False)  # a frozen v1 group does not die


def _own_pids(state: State) -> bool:
    """Whether the container has a pid namespace of its own, whose first process takes all with it."""
    return state.bundle.has_own("pid")


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        raise WrongState("cannot kill", f"process {pid}", "it has ended") from None


def _kill_group(state: State) -> None:
    group = state.group()
    if group.frozen():
        group.freeze(False)
    if state.alive():
        _send(state.pid, signal.SIGKILL)
    group.kill()
    _wait_dead(state)


def delete(root: Path, identity: str, force: bool = False) -> list[str]:
    """Remove a stopped container; with `force` whatever its status, and without error where there is none.

    Returns the warnings of its poststop hooks.
    """
    try:
        state = states.load(root, identity)
    except NotFound:
        if force:
            return []
        raise
    status = state.status()
    if status in ("created", "running", "paused") and not force:
        raise WrongState("cannot delete", identity, f"it is {status}", "stop it, or give --force")
    if state.alive():
        _kill_group(state)
    state.group().remove()
    creating.release_mounts(state.bundle)
    told = _run_all(state, "poststop", "stopped") if status != "creating" else []
    state.remove()
    return told


def pause(state: State, frozen: bool) -> None:
    """Freeze or thaw."""
    status = state.status()
    if status not in (("running", "created") if frozen else ("paused",)):
        raise WrongState("cannot pause" if frozen else "cannot resume", state.id, f"it is {status}")
    state.group().freeze(frozen)


def run(bundle: Bundle, options: Options, detach: bool, keep: bool) -> int:
    """create and start; the command's status, or 0 at once with `detach`."""
    state = creating.create(bundle, options)
    try:
        for warning in start(state):
            options.warn(warning)
        return 0 if detach else wait_child(state.pid)
    except BaseException:
        delete(options.root, options.id, force=True)
        raise
    finally:
        if not detach and not keep:
            delete(options.root, options.id, force=True)
