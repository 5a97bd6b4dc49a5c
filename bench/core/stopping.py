"""When an adaptive group has run enough: every median is bounded narrowly, at two looks in a row.

The rule looks at the width of intervals, never at a difference between targets: so looking often cannot make
a difference out of none. The interval is that of order statistics (Conover, Practical Nonparametric
Statistics, 3.2), which needs no resampling and so no numpy while a campaign runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from bench.core.plan import Group

PASSES = 2


def half_width(values: Sequence[float]) -> float:
    """Half the 95 % interval of the median over the median; infinite for fewer than six values."""
    ordered = sorted(values)
    count = len(ordered)
    reach = 1.959964 * math.sqrt(count) / 2
    low, high = math.floor(count / 2 - reach), math.ceil(count / 2 + reach)
    if count < 6 or low < 0 or high >= count:
        return math.inf
    middle = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    return (ordered[high] - ordered[low]) / 2 / middle if middle > 0 else math.inf


class Looks:
    """The looks of one group, at `runs` and then every `look_every` blocks."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._passes = 0

    def are_enough(self, blocks: int, values: Iterable[Sequence[float]]) -> bool:
        """Whether to stop before the block of that number; `values` are the starts of each target so far."""
        since = blocks - self._group.runs
        if since < 0 or since % self._group.look_every:
            return False
        precise = all(half_width(found) <= self._group.precision for found in values)
        self._passes = self._passes + 1 if precise else 0
        return self._passes >= PASSES

    def words(self, blocks: int, stopped: bool) -> str:
        """For campaign.json: why the group ended where it did."""
        if stopped:
            return f"precise to {self._group.precision:.1%} after {blocks} runs"
        return f"not precise to {self._group.precision:.1%} after max_runs ({self._group.max_runs})"
