"""What the drivers add to a start, fifty machines asked for at once, and `vmm ls` of a hundred."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from bench.core import workload
from bench.core.target import Cell, Parts, Target

LOOKS = 10
ASK_AT_ONCE = 10  # `ls` wants many machines, not a burst


class Burst(Protocol):
    """What is asked of the target that makes many machines."""

    def start(self, count: int) -> list[float | None]: ...
    def running(self) -> int: ...
    def ls_s(self) -> float: ...
    def memory(self) -> dict[str, float]: ...
    def remove(self) -> None: ...


Make = Callable[[Cell], AbstractContextManager[Burst]]


def measure(target: Target, cell: Cell) -> Parts | tuple[Parts, ...]:
    """A start, with the time to the guest's first serial byte; in workload mode what `part` names."""
    if cell.mode != "workload":
        parts = target.run_once(cell)
        first_ns = parts.edges_ns.get("t4")
        return parts if first_ns is None else workload.with_values(parts, {"first_byte_s": first_ns / 1e9})
    make: Make | None = getattr(target, "burst", None)
    if make is None:
        return workload.skipped(f"{target.name} makes no burst")
    count = int(cell.param("count", 50))
    return _looked_at(make, cell, count) if cell.param("part", "") == "ls" else _at_once(make, cell, count)


def _at_once(make: Make, cell: Cell, count: int) -> Parts:
    """Seconds of one alone, then of the first and the last of `count`; how many did not come up; memory."""
    with make(cell) as burst:
        alone_s = statistics.median(one for _ in range(3) for one in burst.start(1) if one is not None)
        burst.remove()
        took_s = [one for one in burst.start(count) if one is not None]
        missing = count - burst.running()
        memory = burst.memory()
    values = {"alone_s": alone_s, "first_s": min(took_s), "last_s": max(took_s), "missing": float(missing)}
    return Parts(values={**values, "first_over_alone": min(took_s) / alone_s, **memory})


def _looked_at(make: Make, cell: Cell, count: int) -> tuple[Parts, ...]:
    """`vmm ls` with `count` machines that run."""
    with make(cell) as burst:
        for _ in range(0, count, ASK_AT_ONCE):
            burst.start(ASK_AT_ONCE)
        missing = float(count - burst.running())
        return tuple(Parts(values={"ls_s": burst.ls_s(), "missing": missing}) for _ in range(LOOKS))
