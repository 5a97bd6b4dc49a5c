"""Rebuilds and pulls by the target's own commands; the disk of instances that do nothing."""

from __future__ import annotations

from bench.core import workload
from bench.core.target import Cell, Parts, Target


def measure(target: Target, cell: Cell) -> Parts | tuple[Parts, ...]:
    """What `work` says (rebuild, pull, disk_slope); a target that cannot do it is skipped."""
    what = str(cell.param("work", "rebuild"))
    do = getattr(target, what, None)
    if do is None:
        return workload.skipped(f"{target.name} has no {what}")
    found: Parts | tuple[Parts, ...] = do(cell)
    return found
