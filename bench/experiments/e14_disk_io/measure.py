"""A sequential write with one flush at its end, and small writes that are flushed one by one."""

from __future__ import annotations

from bench.core import workload
from bench.core.target import Cell, Parts, Target

WORK = {
    "write": ("dd if=/dev/zero of=/big bs=1M count=64 conv=fsync 2>/dev/null; rm /big",
              "written_mib", 64),
    "sync": (
        "i=0; while [ $i -lt 50 ]; do dd if=/dev/zero of=/small bs=4k count=1 conv=fsync 2>/dev/null; "
        "i=$((i+1)); done; rm /small", "flushes", 50,
    ),
}  # fmt: skip


def measure(target: Target, cell: Cell) -> Parts:
    """The work's seconds and its rate."""
    body, rate, amount = WORK[str(cell.param("work", "write"))]
    return workload.per_second(workload.script(target, cell, body), rate, float(amount))
