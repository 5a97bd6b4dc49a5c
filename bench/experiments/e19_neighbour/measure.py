"""Computing (sysbench) while other instances of the same target compute as well (stress-ng)."""

from __future__ import annotations

import contextlib
from dataclasses import replace

from bench.core.target import Cell, Parts, Target
from bench.experiments import generators
from bench.experiments.e11_cpu.measure import WORK

NOISE = "stress-ng --cpu 1 >/dev/null 2>&1 &"


def measure(target: Target, cell: Cell) -> Parts:
    """The rate of events beside that many neighbours."""
    noisy = replace(cell, params=(*cell.params, ("hold", NOISE)))
    with contextlib.ExitStack() as stack:
        for _ in range(int(cell.param("neighbours", 0))):
            stack.enter_context(target.hold(noisy))
        command, read = WORK["cpu"]
        return generators.measured(target, cell, command, read)
