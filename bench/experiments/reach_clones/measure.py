"""Clones of a template: what one costs the host, what freezing costs, and how many fit."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Protocol

from bench.core import idle, workload
from bench.core.target import Cell, Held, Parts, Target

AT_ONCE = 4  # starts; as many as are let boot together on two cores
STEP = 20  # clones between two looks of the ramp
STOPS = {"most": 0, "memory": 1, "slow": 2, "failed": 3, "time": 4}


class Burst(Protocol):
    """What is asked of the target that makes many machines."""

    def start(self, count: int) -> list[float | None]: ...
    def running(self) -> int: ...
    def answers_s(self, which: slice = ...) -> list[float | None]: ...
    def remove(self) -> None: ...


def measure(target: Target, cell: Cell) -> Parts:
    """A start; in workload mode what the parameter `part` names."""
    if cell.mode != "workload":
        return target.run_once(cell)
    parts: dict[str, Callable[[Target, Cell], Parts]] = {
        "frozen": _frozen,
        "nth": _nth,
        "boots": _boots,
        "crowd": _crowd,
    }
    return parts[str(cell.param("part", "nth"))](target, cell)


def _frozen(target: Target, cell: Cell) -> Parts:
    """What a template costs, made anew each time."""
    freeze = getattr(target, "freeze", None)
    return Parts(values=freeze(cell)) if freeze else workload.skipped(f"{target.name} has no template")


def _nth(target: Target, cell: Cell) -> Parts:
    """`nth_IMAGE_bytes`: the last of `count` machines, idle for `idle_s`: its own pages, and its share of the
    template where it has one. Of cold machines the first is as the twentieth.
    """
    told = getattr(target, "frozen", None)
    count = int(cell.param("count", 20)) if told else 1
    system = replace(cell, mode="boot") if cell.param("system", False) else cell
    with contextlib.ExitStack() as stack:
        last: Held | None = None
        for _ in range(count):
            last = stack.enter_context(target.hold(system))
        assert last is not None
        time.sleep(float(cell.param("idle_s", 30)))
        weighed = idle.processes(last.pids())
        share = told(cell)["template_bytes"] / count if told else 0.0
    values = {"uss_bytes": weighed["uss_bytes"], "pss_bytes": weighed["pss_bytes"], "share_bytes": share}
    return Parts(values={**values, f"nth_{cell.image}_bytes": weighed["uss_bytes"] + share})


def _made(target: Target, cell: Cell) -> AbstractContextManager[Burst]:
    made: AbstractContextManager[Burst] = target.burst(cell)  # type: ignore[attr-defined]
    return made


def _boots(target: Target, cell: Cell) -> Parts:
    """`missing` of `count` cold boots, a few at once, each removed once it is up."""
    count, missing = int(cell.param("count", 100)), 0
    with _made(target, cell) as burst:
        for _ in range(0, count, AT_ONCE):
            missing += burst.start(AT_ONCE).count(None) + AT_ONCE - burst.running()
            burst.remove()
    return Parts(values={"boots": float(count), "missing": float(missing)})


def _crowd(target: Target, cell: Cell) -> Parts:
    """`count` idle at once, and the slowest answer of all of them; then more, up to the limit."""
    count = int(cell.param("count", 100))
    with _made(target, cell) as burst:
        before = idle.settled_available_bytes()
        began_s = time.monotonic()
        failed = sum(burst.start(AT_ONCE).count(None) for _ in range(0, count, AT_ONCE))
        started_s = time.monotonic() - began_s
        each = (before - idle.settled_available_bytes()) / count
        answers_s = burst.answers_s()
        good_s = [one for one in answers_s if one is not None]
        values = {"missing": float(failed + count - burst.running()), "each_bytes": each,
                  "started_each_s": started_s / count, "slowest_s": max(good_s, default=0.0),
                  "unanswered": float(len(answers_s) - len(good_s))}  # fmt: skip
        return Parts(values={**values, **_ramp(burst, cell, count)})


def _ramp(burst: Burst, cell: Cell, count: int) -> dict[str, float]:
    """More and more until something ends it: `limit_clones`, and `stop_code` of what that was (STOPS)."""
    most, until_s = int(cell.param("most", count)), time.monotonic() + float(cell.param("ramp_s", 240))
    stop = "most"
    while count < most and stop == "most":
        failed = sum(burst.start(AT_ONCE).count(None) for _ in range(0, STEP, AT_ONCE))
        count += STEP - failed
        asked_s = [*burst.answers_s(slice(0, 1)), *burst.answers_s(slice(-1, None))]
        if failed or None in asked_s:
            stop = "failed"
        elif max(one for one in asked_s if one is not None) > float(cell.param("slowest_s", 5.0)):
            stop = "slow"
        elif idle.available_bytes() < float(cell.param("least_available_ratio", 0.05)) * idle.total_bytes():
            stop = "memory"
        elif time.monotonic() > until_s:
            stop = "time"
    return {"limit_clones": float(count), "stop_code": float(STOPS[stop])}
