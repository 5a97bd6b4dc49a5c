"""The stream that a QEMU sends when it migrates: to another QEMU, waiting until all is sent, calling it back.

One QEMU sends one at a time, and refuses every order about the next until the last is over: also for a moment
after the side that was to take it has ended.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from host.errors import DeadlinePassed, Failure
from vmm import templates

if TYPE_CHECKING:
    from vmm.monitor import Monitor

_ENDED = ("completed", "failed", "cancelled")
_OVER = (None, *_ENDED)
_PAUSE_S = 0.002
_CALL_BACK_S = 10.0
_TAKE_S = 10.0
FULL_SPEED = 1 << 40  # bytes a second; QEMU's default, 128 MiB/s, is meant for networks


def hand_over(
    source: Monitor,
    target: Monitor,
    refusal: str,
    timeout_s: float = 60.0,
    bytes_per_s: int = FULL_SPEED,
) -> dict[str, Any]:
    """Send all of a machine to a QEMU that listens, over a socket of theirs; then the source stands still.

    Returns what `query-migrate` says in the end. Raises Failure, DeadlinePassed, the stream called back.
    """
    try:
        _send(source, target, bytes_per_s)
        told = await_sent(source, refusal, timeout_s, if_not="the second QEMU ended, or hung up")
        _await_taken(target, refusal)
    except BaseException:
        with contextlib.suppress(Failure):  # it has ended, or does not answer: that is told already
            call_back(source)
        raise
    return told


def _send(source: Monitor, target: Monitor, bytes_per_s: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:  # neither QEMU may make a socket by path, and each keeps its own copy of its end
        target.execute("getfd", {"fdname": "incoming"}, fd=theirs.fileno())
        target.execute("migrate-incoming", {"uri": "fd:incoming"})
        source.execute("migrate-set-parameters", {"max-bandwidth": bytes_per_s})
        # a clone of a template left its memory out once: QEMU keeps the setting, and the form of the stream
        whole = {**templates.LEAVE_MEMORY_OUT, "state": False}
        source.execute("migrate-set-capabilities", {"capabilities": [whole]})
        source.execute("getfd", {"fdname": "stream"}, fd=ours.fileno())
        source.execute("migrate", {"uri": "fd:stream"})


def _await_taken(target: Monitor, refusal: str) -> None:
    deadline = time.monotonic() + _TAKE_S
    while target.execute("query-status")["status"] == "inmigrate":
        if time.monotonic() > deadline:
            raise DeadlinePassed(refusal, target.name, f"it was not taken within {_TAKE_S:g} s")
        time.sleep(_PAUSE_S)


def await_sent(
    monitor: Monitor,
    refusal: str,
    timeout_s: float,
    progress: Callable[[dict[str, Any]], None] = lambda told: None,
    if_not: str = "QEMU gives no reason",
) -> dict[str, Any]:
    """Wait until all was sent; what `query-migrate` says of it. `progress` is told what it says before.

    Raises Failure, whose words begin with `refusal`, with QEMU's reason or `if_not`; DeadlinePassed.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        told: dict[str, Any] = monitor.execute("query-migrate")
        status = told.get("status")
        if status == "completed":
            return told
        if status in _ENDED:
            raise Failure(refusal, monitor.name, str(told.get("error-desc", if_not)))
        if time.monotonic() > deadline:
            raise DeadlinePassed(refusal, monitor.name, f"it is still {status} after {timeout_s:g} s")
        progress(told)
        time.sleep(_PAUSE_S)


def call_back(monitor: Monitor, patience_s: float = 0.0) -> None:
    """See to it that none is under way: one that is may end by itself in that time, then it is called back.

    Raises DeadlinePassed where QEMU does not let go of it.
    """
    status = _ended(monitor, patience_s)
    if status not in _OVER:
        monitor.execute("migrate_cancel")
        status = _ended(monitor, _CALL_BACK_S)
    if status not in _OVER:
        raise DeadlinePassed("cannot call back the migration of", monitor.name, f"QEMU is still {status}")


def _ended(monitor: Monitor, timeout_s: float) -> str | None:
    """The status of the migration once it is over, or after that time; None: there was none."""
    deadline = time.monotonic() + timeout_s
    while True:
        status: str | None = monitor.execute("query-migrate").get("status")
        if status in _OVER or time.monotonic() > deadline:
            return status
        time.sleep(_PAUSE_S)
