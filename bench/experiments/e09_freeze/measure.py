"""Pause and resume a held instance."""

from __future__ import annotations

import time

from bench.core import workload
from bench.core.target import Cell, Parts, Target


def measure(target: Target, cell: Cell) -> Parts:
    """`pause_s` and `resume_s`: request to the engine's answer."""
    with target.hold(cell) as held:
        pause, resume = getattr(held, "pause", None), getattr(held, "resume", None)
        if pause is None or resume is None:
            return workload.skipped(f"{target.name} cannot pause")
        began_s = time.monotonic()
        pause()
        paused_s = time.monotonic()
        resume()
        values = {"pause_s": paused_s - began_s, "resume_s": time.monotonic() - paused_s}
        return Parts(values=values, accelerator=held.accelerator)
