"""How many machines of a home come up at once, by boot or as clones: two a core, the others wait their turn.

Under TCG a guest that gets too little of a core misses its clock calibrations; boots that share a core in
pairs all come up. The second of a pair waits a moment longer, so that the first of fifty is nearly as quick
as one alone. For the same reason `vmm run` queues before it loads what it starts a machine with: fifty
interpreters at work are two cores for seconds.
"""

from __future__ import annotations

import fcntl
import os
import time
from _thread import get_ident  # `threading` would cost a start milliseconds
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from host import paths
from host.errors import DeadlinePassed

if TYPE_CHECKING:
    from vmm.boot import Boot

STARTS_A_CORE = 2
_HEAD_START_S = 1.0  # how long a core that one boots on already is not asked for
_QUEUE = 10  # who waits, waits for several boots, one after the other
# Many wait at once: one of them looks soon enough, and together they take no core from those that boot.
_LONGEST_PAUSE_S = 0.1

_early: dict[int, int] = {}  # thread -> the place that it holds for its next machine


def boot_timeout_s() -> float:
    """How long a guest may take to its marker: `$VMM_BOOT_TIMEOUT_S`, else two minutes."""
    return float(os.environ.get("VMM_BOOT_TIMEOUT_S", "120"))


def queue(folder: Path) -> None:
    """Wait for a place for this thread's next machine, and keep it until `boot` or `let_go`.

    Raises DeadlinePassed.
    """
    _early[get_ident()] = take(paths.ensure(folder), _QUEUE * boot_timeout_s())


def let_go() -> None:
    """Give the place of `queue` back, before something else than a boot takes its time."""
    place = _early.pop(get_ident(), -1)
    if place >= 0:
        os.close(place)


def boot(folder: Path, timeout_s: float, start: Callable[[], Boot]) -> Boot:
    """What `start` gives; it keeps one of the places in `folder` until its guest is there.

    Raises DeadlinePassed when it waited several times `timeout_s` seconds, a boot's own, for one.
    """
    place = _early.pop(get_ident(), -1)
    if place < 0:
        place = take(paths.ensure(folder), _QUEUE * timeout_s)
    try:
        booting = start()
    except BaseException:
        os.close(place)
        raise
    booting.place = place
    return booting


def hand_over(booting: Boot) -> None:
    """Give the place of `queue` to a machine that needs none of its own; its guest gives it back."""
    booting.place = _early.pop(get_ident(), -1)


def take(folder: Path, timeout_s: float) -> int:
    """A place among those that boot: a descriptor to close once the guest is up (its death closes it as
    well).

    Raises DeadlinePassed after `timeout_s` seconds.
    """
    cores = os.cpu_count() or 1
    began, pause_s = time.monotonic(), 0.002
    while True:
        waited_s = time.monotonic() - began
        may_share = waited_s >= min(_HEAD_START_S, timeout_s / 2)
        for number in range(cores * (STARTS_A_CORE if may_share else 1)):
            fd = os.open(folder / f".start-{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return fd
            except BlockingIOError:
                os.close(fd)
        if waited_s > timeout_s:
            why = f"{cores * STARTS_A_CORE} were booting all the time for {timeout_s:g} s"
            raise DeadlinePassed("cannot start yet another machine", why=why)
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
