"""How many machines of a home come up at once, by boot or as clones: two a core, the others wait their turn.

Under TCG a guest that gets too little of a core misses its clock calibrations; boots that share a core in
pairs all come up, and the first of fifty is not fifty times later than one alone.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from host import paths
from host.errors import DeadlinePassed

if TYPE_CHECKING:
    from vmm.boot import Boot

STARTS_A_CORE = 2
# Many wait at once: one of them looks soon enough, and together they take no core from those that boot.
_LONGEST_PAUSE_S = 0.2


def boot(folder: Path, timeout_s: float, start: Callable[[], Boot]) -> Boot:
    """What `start` gives; it keeps one of the places in `folder` until its guest is there.

    Raises DeadlinePassed after `timeout_s` seconds without one.
    """
    place = take(paths.ensure(folder), timeout_s)
    try:
        booting = start()
    except BaseException:
        os.close(place)
        raise
    booting.place = place
    return booting


def take(folder: Path, timeout_s: float) -> int:
    """A place among those that boot: a descriptor to close once the guest is up (its death closes it as
    well).

    Raises DeadlinePassed after `timeout_s` seconds.
    """
    places = STARTS_A_CORE * (os.cpu_count() or 1)
    deadline, pause_s = time.monotonic() + timeout_s, 0.002
    while True:
        for number in range(places):
            fd = os.open(folder / f".start-{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return fd
            except BlockingIOError:
                os.close(fd)
        if time.monotonic() > deadline:
            raise DeadlinePassed(
                "cannot start yet another machine", why=f"{places} are booting for {timeout_s:g} s"
            )
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
