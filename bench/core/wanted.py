"""Figures that a plan fixed beforehand (`A / B`, `A - B`, each at most), and whether samples reach them."""

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
        """reached, missed, or open where the interval holds the figure."""
        low, high = self.found.low, self.found.high
        if math.isnan(low):
            return "too few"
        if high <= self.wanted:
            return "reached"
        return "missed" if low > self.wanted else "open"


def judged(plan: Plan, samples: Sequence[Sample]) -> list[Judged]:
    """Every figure in every group that has starts of both, paired by block."""
    found = []
    for group in dict.fromkeys(cell.group for one in plan.groups for cell in one.cells()):
        for text, wanted in plan.thresholds.items():
            words = text.split(" ")
            if len(words) != 3 or words[1] not in ("/", "-"):
                continue
            first, second = (summary.starts(samples, f"{group}/{name}") for name in (words[0], words[2]))
            blocks = sorted(set(first) & set(second))
            if blocks:
                pairs = [(first[block], second[block]) for block in blocks]
                found.append(Judged(group, text, wanted, _interval(pairs, words[1]), len(blocks)))
    return found


def _interval(pairs: Sequence[tuple[float, float]], sign: str) -> Interval:
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
