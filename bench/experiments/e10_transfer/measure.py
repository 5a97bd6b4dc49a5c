"""Pack an instance into one compressed file: a tar of its files, or its disk image."""

from __future__ import annotations

from bench.core import workload
from bench.core.target import Cell, Parts, Target


def measure(target: Target, cell: Cell) -> Parts:
    """`transfer_bytes` and `pack_s` of a target that can pack."""
    pack = getattr(target, "pack", None)
    if pack is None:
        return workload.skipped(f"{target.name} cannot pack")
    packed: Parts = pack(cell)
    return packed
