"""The slope of MemAvailable with KSM off and on; KSM is put back as it was."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.core import idle, workload
from bench.core.target import Cell, Parts, Target

KSM = Path("/sys/kernel/mm/ksm")
SETTINGS = {"run": "1", "sleep_millisecs": "20", "pages_to_scan": "20000"}
MERGE_S = 8.0


def measure(target: Target, cell: Cell) -> Parts | tuple[Parts, ...]:
    """Points (instances, drop of MemAvailable); with KSM a last reading after it had time to merge."""
    if not cell.param("ksm", False):
        return idle.slope(target, cell)
    if not KSM.exists():
        return workload.skipped("this kernel has no KSM")
    with _merging():
        return idle.slope(target, cell, settle=lambda: time.sleep(MERGE_S))


@contextmanager
def _merging() -> Iterator[None]:
    before = {name: (KSM / name).read_text() for name in SETTINGS}
    try:
        for name, value in SETTINGS.items():
            (KSM / name).write_text(value)
        yield
    finally:
        for name, value in before.items():
            (KSM / name).write_text(value)
