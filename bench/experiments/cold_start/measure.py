"""Starts with an empty page cache: what reading image, programs and libraries from disk adds."""

from __future__ import annotations

import os
from pathlib import Path

from bench.core import workload
from bench.core.target import Cell, Parts, Target

DROP_CACHES = Path("/proc/sys/vm/drop_caches")


def measure(target: Target, cell: Cell) -> Parts:
    """One start after the cache was emptied; what is dirty is written first, since it cannot be dropped."""
    os.sync()
    try:
        DROP_CACHES.write_text("3")
    except OSError as error:
        return workload.skipped(f"the page cache cannot be dropped: {error.strerror}", "run it as root")
    return target.run_once(cell)
