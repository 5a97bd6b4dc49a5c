"""Starts with an empty page cache: what reading image, programs and libraries from disk adds."""

from __future__ import annotations

import os
from pathlib import Path

from bench.core import workload
from bench.core.target import Cell, Parts, Target

DROP_CACHES = Path("/proc/sys/vm/drop_caches")


def measure(target: Target, cell: Cell) -> Parts:
    """One start after the cache was emptied; what is dirty is written first, since it cannot be dropped.

    A second start follows at once, warmed by the first: `warm_start_s`. Two groups of runs, one after the
    other, would compare two moments of the host instead of two states of its cache.
    """
    os.sync()
    try:
        DROP_CACHES.write_text("3")
    except OSError as error:
        return workload.skipped(f"the page cache cannot be dropped: {error.strerror}", "run it as root")
    cold = target.run_once(cell)
    if cold.status != "ok":
        return cold
    warm = target.run_once(cell)
    if warm.status != "ok" or "t8" not in warm.edges_ns:
        return cold
    return workload.with_values(cold, {"warm_start_s": warm.edges_ns["t8"] / 1e9})
