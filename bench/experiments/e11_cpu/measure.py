"""Hashing (pure computing), one-byte reads and writes (system calls), and processes made and ended."""

from __future__ import annotations

from bench.core import workload
from bench.core.target import Cell, Parts, Target

# The same static busybox on every target; sizes keep emulation within seconds.
WORK = {
    "hash": (
        "dd if=/dev/zero bs=64k count=512 2>/dev/null | sha256sum >/dev/null",
        "hashed_mib",
        32,
    ),
    "syscalls": ("dd if=/dev/zero of=/dev/null bs=1 count=200000 2>/dev/null", "calls", 400_000),
    "processes": ("i=0; while [ $i -lt 200 ]; do /bin/true; i=$((i+1)); done", "processes", 200),
}


def measure(target: Target, cell: Cell) -> Parts:
    """The work's seconds and its rate."""
    body, rate, amount = WORK[str(cell.param("work", "hash"))]
    return workload.per_second(workload.script(target, cell, body), rate, float(amount))
