"""Many containers: whole commands at once, and a crowd of idle ones, from the first start to nothing left."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from bench.core import idle, stats, workload
from bench.core.target import Cell, Parts, Target

SAME = 20  # starts that are told by one median: the first so many, the last so many
WEIGHED = 200  # the slope of MemAvailable is taken over the first so many
WEIGH_EVERY = 10
HANDS = 2  # commands at a time that ask each container for an answer


Command = tuple[list[str], dict[str, str]]  # a command line and its environment


class Crowd(Protocol):
    """What is asked of the target that makes one."""

    def start(self, number: int) -> float: ...
    def exec_argv(self, number: int) -> Command: ...
    def supervisors(self) -> int: ...
    def traces(self) -> dict[str, int]: ...
    def remove_all(self) -> float: ...


def measure(target: Target, cell: Cell) -> Parts:
    """`each_s` of commands at once, or what a crowd costs."""
    if cell.param("part", "") == "at-once":
        return _at_once(target, cell)
    make = getattr(target, "crowd", None)
    return _crowd(make, cell) if make else workload.skipped(f"{target.name} makes no crowd")


def _at_once(target: Target, cell: Cell) -> Parts:
    make = getattr(target, "whole_argv", None)
    if make is None:
        return workload.skipped(f"{target.name} has no whole command")
    count = int(cell.param("count", 16))
    commands = [make(cell, number) for number in range(count)]
    began_s = time.monotonic()
    ended = _ended(commands, count)
    took_s = time.monotonic() - began_s
    errors = [error for status, error in ended if status]
    values = {"each_s": took_s / count, "starts_per_second": count / took_s}
    return Parts("failed" if errors else "ok", values=values, error=errors[0] if errors else None)


def _ended(commands: Sequence[Command], hands: int) -> list[tuple[int, str]]:
    """Status and last words of each command, `hands` of them at a time."""
    found = []
    for start in range(0, len(commands), hands):
        running = [
            subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env
            )
            for argv, env in commands[start : start + hands]
        ]
        for process in running:
            words = process.communicate()[1].decode(errors="replace")[-300:]
            found.append((process.returncode, words or f"status {process.returncode}"))
    return found


def _crowd(make: Callable[[Cell], AbstractContextManager[Crowd]], cell: Cell) -> Parts:
    """Start, weigh, ask and remove `count` idle containers; what is left of them is counted at the end."""
    count = int(cell.param("count", 200))
    with make(cell) as crowd:
        before = crowd.traces()
        starts_s, slope = _grown(crowd, count)
        values = {
            "first_start_s": statistics.median(starts_s[:SAME]),
            "last_start_s": statistics.median(starts_s[-SAME:]),
            "each_bytes": slope,
            "supervisors": float(crowd.supervisors()),
            **_answers(crowd, count),
            "removed_s": crowd.remove_all(),
        }
        left = {f"left_{kind}": max(0.0, float(now - before[kind])) for kind, now in crowd.traces().items()}
    values["last_over_first"] = values["last_start_s"] / values["first_start_s"]
    return Parts(values={**values, **left, "left": sum(left.values())})


def _grown(crowd: Crowd, count: int) -> tuple[list[float], float]:
    """Seconds of each start, and the slope of MemAvailable over the first WEIGHED."""
    starts_s: list[float] = []
    points = [(0.0, float(idle.settled_available_bytes()))]
    for number in range(count):
        starts_s.append(crowd.start(number))
        if (number + 1) % WEIGH_EVERY == 0 and number < WEIGHED:
            points.append((number + 1.0, float(idle.settled_available_bytes())))
    slope = stats.theil_sen([x for x, _ in points], [y for _, y in points]).slope
    return starts_s, -slope.estimate


def _answers(crowd: Crowd, count: int) -> dict[str, float]:
    """`vmm exec` into each of them."""
    began_s = time.monotonic()
    ended = _ended([crowd.exec_argv(number) for number in range(count)], HANDS)
    took_s = time.monotonic() - began_s
    return {"unanswered": float(sum(status != 0 for status, _ in ended)), "asked_s": took_s / count}
