"""Memory limits (dd crosses one), processor limits (stress-ng), and a limit that changes while one runs."""

from __future__ import annotations

import time

from bench.core import workload
from bench.core.target import Cell, Parts, Target
from bench.experiments import generators
from host.errors import Unsupported

# dd reads one block of 384 MiB: its buffer is written to the last page.
MEMORY = "dd if=/dev/zero of=/dev/null bs=384M count=1 2>/dev/null && echo held_limit=0 || echo held_limit=1"
CPU = "stress-ng --cpu 2 --cpu-method int64 -t 1 --metrics-brief"
RESIZED_BYTES = 192 << 20


def measure(target: Target, cell: Cell) -> Parts:
    """`held_limit` is 1 where the program was refused or killed; `used_cores`; `resize_s`."""
    work = cell.param("work", "memory")
    if work == "memory":
        return workload.script(target, cell, MEMORY)
    if work == "cpu":
        return generators.measured(target, cell, CPU, generators.cores_used("cpu"))
    return _resized(target, cell)


def _resized(target: Target, cell: Cell) -> Parts:
    """A held instance gets another memory limit."""
    with target.hold(cell) as held:
        resize = getattr(held, "resize", None)
        if resize is None:
            return workload.skipped(f"{target.name} cannot change a limit of what runs")
        began_s = time.monotonic()
        try:
            resize(RESIZED_BYTES)
        except Unsupported as error:
            return workload.skipped(str(error), error.hint)
        return Parts(values={"resize_s": time.monotonic() - began_s}, accelerator=held.accelerator)
