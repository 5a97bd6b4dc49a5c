"""A hundred sleeps of 2 ms while `hogs` busy processes of the host compete."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from bench.core import workload
from bench.core.target import Cell, Parts, Target

SLEEPS, SLEEP_S = 100, 0.002
BODY = f"i=0; while [ $i -lt {SLEEPS} ]; do usleep {int(SLEEP_S * 1e6)}; i=$((i+1)); done"


def measure(target: Target, cell: Cell) -> Parts:
    """`late_s`: how much longer than asked one sleep took, the loop's own work included."""
    with _hogs(int(cell.param("hogs", 0))):
        parts = workload.script(target, cell, BODY)
    late_s = parts.values.get("work_s", 0.0) / SLEEPS - SLEEP_S
    return workload.with_values(parts, {"late_s": late_s}) if parts.status == "ok" else parts


@contextmanager
def _hogs(count: int) -> Iterator[None]:
    hogs = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(count)]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
