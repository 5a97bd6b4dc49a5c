"""Hashing while other instances of the same target spin."""

from __future__ import annotations

import contextlib

from bench.core import workload
from bench.core.target import Cell, Parts, Target

MIB = 16
BODY = f"dd if=/dev/zero bs=64k count={MIB * 16} 2>/dev/null | sha256sum >/dev/null"


def measure(target: Target, cell: Cell) -> Parts:
    """The rate of hashing beside that many neighbours."""
    with contextlib.ExitStack() as stack:
        for _ in range(int(cell.param("neighbours", 0))):
            stack.enter_context(target.hold(cell))
        parts = workload.script(target, cell, BODY)
    return workload.per_second(parts, "hashed_mib", float(MIB))
