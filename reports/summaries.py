"""Medians with their intervals, and ratios paired by block: the numbers of every table and sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from bench.core.sample import Sample
from bench.core.stats import Interval, median_interval, ratio_interval
from reports.gathered import Group, Series, interval_s

Reading = Callable[[Sample], float | None]


@dataclass(frozen=True)
class Summary:
    """One target's line in a table."""

    series: Series
    values: tuple[float, ...]
    median: Interval
    failed: int
    ratio: Interval | None

    @property
    def n(self) -> int:
        return len(self.values)


def start_time(sample: Sample) -> float | None:
    """Seconds from request to reply."""
    return interval_s(sample)


def named(name: str) -> Reading:
    """A reading of one named value."""

    def read(sample: Sample) -> float | None:
        value = sample.values.get(name)
        return None if value is None else float(value)

    return read


def summaries(group: Group, read: Reading, reference: str) -> list[Summary]:
    """One summary for each series with at least one value; ratios are to the reference target, by block."""
    base = group.find(reference)
    made = []
    for series in group.series:
        values = tuple(value for sample in series.good() if (value := read(sample)) is not None)
        if values:
            ratio = paired_ratio(series, base, read) if base and base is not series else None
            made.append(Summary(series, values, _median(values), len(series.failures()), ratio))
    return made


@cache
def _median(values: tuple[float, ...]) -> Interval:
    """Kept, since picture, sentence and table ask for the same bootstrap."""
    return median_interval(values)


@cache
def _ratio(pairs: tuple[tuple[float, float], ...]) -> Interval:
    return ratio_interval(pairs)


def paired_ratio(series: Series, base: Series, read: Reading) -> Interval | None:
    """The ratio of two targets within blocks; None where no block has both above zero."""
    above, below = _by_block(series, read), _by_block(base, read)
    pairs = [(above[block], below[block]) for block in sorted(above.keys() & below.keys())]
    whole = [(a, b) for a, b in pairs if a > 0 and b > 0]
    return _ratio(tuple(whole)) if whole else None


def _by_block(series: Series, read: Reading) -> dict[int, float]:
    found = ((sample.block, read(sample)) for sample in series.good())
    return {block: value for block, value in found if value is not None}


def reference_of(group: Group) -> str:
    """What ratios are told against: the container where it ran, else the machine, else the first target."""
    names = [series.target for series in group.series if series.good()]
    return next((name for name in ("ct", "vm") if name in names), names[0] if names else "ct")


def medians_by_target(found: Sequence[Summary]) -> dict[str, Summary]:
    """The first summary of each target."""
    return {summary.series.target: summary for summary in reversed(found)}
