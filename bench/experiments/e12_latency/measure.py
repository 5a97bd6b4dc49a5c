"""sockperf over the loopback inside: two processes that wake each other, while `hogs` of the host compete."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from bench.core.target import Cell, Parts, Target
from bench.experiments import generators

# cyclictest would need real-time rights, which containers do not have.
COMMAND = (
    "ip link set lo up 2>/dev/null; sockperf server --tcp -p 7009 >/dev/null 2>&1 & server=$!; sleep 0.5; "
    "sockperf ping-pong --tcp -p 7009 -t 1; status=$?; kill $server; [ $status = 0 ]"
)


def measure(target: Target, cell: Cell) -> Parts:
    """How long a process that is spoken to takes to wake up and answer."""
    with _hogs(int(cell.param("hogs", 0))):
        return generators.measured(target, cell, COMMAND, generators.wake_ups)


@contextmanager
def _hogs(count: int) -> Iterator[None]:
    hogs = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(count)]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
