"""Pause and resume, snapshot and restore with memory, and a live move, of a held instance."""

from __future__ import annotations

import time

from bench.core import workload
from bench.core.target import Cell, Held, Parts, Target
from host.errors import Unsupported


def measure(target: Target, cell: Cell) -> Parts:
    """Seconds from the request to the engine's answer; what a kind cannot do is skipped, with its words."""
    with target.hold(cell) as held:
        try:
            values = _done(target, held, str(cell.param("work", "pause")))
        except Unsupported as error:
            return workload.skipped(str(error), error.hint)
        return Parts(values=values, accelerator=held.accelerator, way=getattr(held, "way", None))


def _done(target: Target, held: Held, work: str) -> dict[str, float]:
    ability = getattr(held, work, None)
    if ability is None:
        raise Unsupported(f"{target.name} cannot {work}")
    if work != "pause":
        values: dict[str, float] = ability()
        return values
    began_s = time.monotonic()
    ability()
    paused_s = time.monotonic()
    held.resume()  # type: ignore[attr-defined]
    return {"pause_s": paused_s - began_s, "resume_s": time.monotonic() - paused_s}
