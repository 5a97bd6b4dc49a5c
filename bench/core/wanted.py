"""Figures that a plan fixed beforehand, each at most, and whether samples reach them.

`A / B` and `A - B` compare the starts of two targets, `A / B in VALUE` another of their numbers; `A in VALUE`
is one target's number by itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from bench.core import stats, summary
from bench.core.plan import Plan
from bench.core.sample import Sample
from bench.core.stats import Interval


class Judged(NamedTuple):
    """One figure in one group: reached where the whole interval lies below, missed where it lies above."""

    group: str
    text: str
    wanted: float
    found: Interval
    n: int

    @property
    def words(self) -> str:
        """reached, missed, or open where the interval holds the figure; a count needs no second run."""
        low, high = self.found.low, self.found.high
        if self.n == 1:
            return ("reached" if self.found.estimate <= self.wanted else "missed") + ", seen once"
        if math.isnan(low):
            return "too few"
        if high <= self.wanted:
            return "reached"
        return "missed" if low > self.wanted else "open"


def judged(plan: Plan, samples: Sequence[Sample]) -> list[Judged]:
    """Every figure in every group that has samples for it; two targets are paired by block."""
    found = []
    for group in dict.fromkeys(cell.group for one in plan.groups for cell in one.cells()):
        for text, wanted in plan.thresholds.items():
            asked, _, what = text.partition(" in ")
            match asked.split(" "):
                case [only] if what:
                    numbers = list(summary.values(samples, f"{group}/{only}", what).values())
                    interval, n = stats.median_interval(numbers), len(numbers)
                case [first, ("/" | "-") as sign, second]:
                    pairs = _pairs(samples, f"{group}/{first}", f"{group}/{second}", what or "start_s")
                    interval, n = _interval(pairs, sign), len(pairs)
                case _:
                    continue
            if n:
                found.append(Judged(group, text, wanted, interval, n))
    return found


def _pairs(samples: Sequence[Sample], one: str, other: str, what: str) -> list[tuple[float, float]]:
    first, second = (summary.values(samples, cell, what) for cell in (one, other))
    return [(first[block], second[block]) for block in sorted(set(first) & set(second))]


def _interval(pairs: Sequence[tuple[float, float]], sign: str) -> Interval:
    if not pairs:
        return Interval(math.nan, math.nan, math.nan)
    if sign == "/":
        return stats.ratio_interval(pairs)
    return stats.median_interval([one - other for one, other in pairs])


def to_text(found: Sequence[Judged]) -> str:
    """For a terminal of 80 columns."""
    lines: list[str] = []
    previous = ""
    for one in found:
        unit = " s" if " - " in one.text else ""
        value = f"{one.found.estimate:.3f} ({one.found.low:.3f}..{one.found.high:.3f}){unit}"
        line = f"  {one.text:<24} {value:<28} wanted <= {one.wanted:g}{unit}, n={one.n}: {one.words}"
        lines += [] if one.group == previous else [one.group]
        lines.append(line)
        previous = one.group
    return "\n".join(lines)
