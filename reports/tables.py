"""Median tables: the words of every cell, from summaries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy

from bench.core.stats import Interval
from reports import units
from reports.gathered import Group
from reports.summaries import Reading, Summary, reference_of, summaries


@dataclass(frozen=True)
class MedianRow:
    """One target's line, as words."""

    label: str
    css: str
    n: int
    failed: int
    reference: bool
    median: str
    interval: str
    spread: str
    ratio: str
    ratio_interval: str


@dataclass(frozen=True)
class MedianTable:
    """A table of medians and paired ratios, with its caption."""

    ratio_head: str
    caption: str
    rows: tuple[MedianRow, ...]


def medians(group: Group, read: Reading, words: units.Words, what: str) -> MedianTable | None:
    """The table of one group; None where nothing was read."""
    reference = reference_of(group)
    found = summaries(group, read, reference)
    if not found:
        return None
    rows = tuple(_row(summary, words, reference) for summary in found)
    caption = (
        f"{what} Medians with 95 % bootstrap intervals; the ratio is to {reference}, taken within blocks and "
        "then its median. A dash: too few runs to bound it."
    )
    return MedianTable(f"times {reference}", caption, rows)


def _row(summary: Summary, words: units.Words, reference: str) -> MedianRow:
    low, high = (float(value) for value in numpy.percentile(summary.values, (5, 95)))
    return MedianRow(
        label=summary.series.label,
        css=summary.series.css,
        n=summary.n,
        failed=summary.failed,
        reference=summary.series.target == reference,
        median=words(summary.median.estimate),
        interval=span(summary.median, words),
        spread=f"{words(low)} to {words(high)}",
        ratio="1×" if summary.series.target == reference else ratio_words(summary.ratio),
        ratio_interval=span(summary.ratio, units.times) if summary.ratio else "–",
    )


def span(interval: Interval, words: units.Words) -> str:
    """The interval's two ends, or a dash where the samples cannot bound it."""
    if interval.low != interval.low:
        return "–"
    return f"{words(interval.low).removesuffix('×')} to {words(interval.high)}"


def ratio_words(ratio: Interval | None) -> str:
    """The ratio, or a dash."""
    return units.times(ratio.estimate) if ratio else "–"
