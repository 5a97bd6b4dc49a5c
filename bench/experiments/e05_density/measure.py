"""Instances until a stop rule that the plan fixed beforehand: a failed start, little memory, slow starts."""

from __future__ import annotations

import contextlib
import time

from bench.core import idle
from bench.core.target import Cell, Parts, Target
from host.errors import Failure


def measure(target: Target, cell: Cell) -> tuple[Parts, ...]:
    """One report an instance (`instances`, `start_of_this_s`), and a last one of what stopped the ramp:
    `stopped_by_most`, `_memory`, `_slow` or `_failed` is 1.
    """
    found: list[Parts] = []
    stop, first_s = "most", 0.0
    with contextlib.ExitStack() as stack:
        for count in range(1, int(cell.param("most", 12)) + 1):
            began_s = time.monotonic()
            try:
                held = stack.enter_context(target.hold(cell))
            except Failure:
                stop = "failed"
                break
            took_s = time.monotonic() - began_s
            first_s = first_s or took_s
            values = {"instances": float(count), "start_of_this_s": took_s}
            found.append(Parts(values=values, accelerator=held.accelerator))
            stop = _stop(cell, took_s / first_s)
            if stop != "most":
                break
    reached = {"reached_instances": float(len(found)), f"stopped_by_{stop}": 1.0}
    return (*found, Parts(values=reached))


def _stop(cell: Cell, slower: float) -> str:
    if idle.available_bytes() < float(cell.param("least_available_ratio", 0.05)) * idle.total_bytes():
        return "memory"
    return "slow" if slower > float(cell.param("slower_than", 4.0)) else "most"
