"""Two sets of samples, cell by cell: is there a difference, and which could have been seen?"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bench.core import stats
from bench.core.sample import Sample, times_s
from bench.core.stats import Interval

ALPHA = 0.05
Values = Mapping[str, Sequence[float]]


class Verdict(NamedTuple):
    """One cell compared: second over first.

    `p` is adjusted by Holm over all cells; `detectable` the smallest relative difference that these many runs
    would have shown four times in five. `words` is one of different, equivalent, undecided, too few.
    """

    cell: str
    n: tuple[int, int]
    ratio: Interval
    shift: Interval
    delta: float
    p: float
    equivalent_p: float
    detectable: float
    words: str


def odd_and_even(samples: Iterable[Sample]) -> tuple[list[Sample], list[Sample]]:
    """One run against itself: its odd and its even blocks, which nothing but chance should tell apart."""
    odd: list[Sample] = []
    even: list[Sample] = []
    for one in samples:
        (odd if one.block % 2 else even).append(one)
    return odd, even


def by_cell(samples: Iterable[Sample]) -> dict[str, list[float]]:
    """Seconds of the start of every good run, by cell; cells without starts are left out."""
    found: dict[str, list[float]] = defaultdict(list)
    for one in samples:
        found[one.cell] += [value for value in times_s([one]) if value > 0]
    return {cell: values for cell, values in found.items() if values}


def compared(first: Values, second: Values, margin: float = 0.05) -> list[Verdict]:
    """Every cell that both have; Mann-Whitney with Holm, and equivalence within `margin`."""
    cells = [cell for cell in first if cell in second]
    raw = {cell: stats.mann_whitney(first[cell], second[cell]).p for cell in cells}
    adjusted = stats.holm(raw)
    return [_verdict(cell, first[cell], second[cell], adjusted[cell], margin) for cell in cells]


def _verdict(cell: str, first: Sequence[float], second: Sequence[float], p: float, margin: float) -> Verdict:
    logs = stats.hodges_lehmann(np.log(first).tolist(), np.log(second).tolist())
    ratio = Interval(*(math.exp(value) for value in logs))
    same = stats.equivalent(first, second, margin)
    return Verdict(
        cell=cell,
        n=(len(first), len(second)),
        ratio=ratio,
        shift=stats.hodges_lehmann(first, second),
        delta=stats.cliffs_delta(first, second),
        p=p,
        equivalent_p=same.p,
        detectable=stats.detectable(first, second),
        words=_words(p, same.equivalent, 2 / math.comb(len(first) + len(second), len(first))),
    )


def _words(p: float, equivalent: bool, least: float) -> str:
    """The verdict; `least` is the smallest p that a rank test of so many runs can give."""
    if math.isnan(p):
        return "too few"
    if p < ALPHA:
        return "different"
    if equivalent:
        return "equivalent"
    return "too few" if least >= ALPHA else "undecided"


def to_table(verdicts: Sequence[Verdict], margin: float = 0.05) -> str:
    """The verdicts for 80 columns, the name of a cell above its numbers."""
    lines = [f"  {'':<4} {'n':>9} {'ratio (95 %)':>22} {'p':>7} {'sees':>7}  verdict"]
    for one in verdicts:
        bounds = "" if math.isnan(one.ratio.low) else f" ({one.ratio.low:.3f}..{one.ratio.high:.3f})"
        sees = "-" if math.isnan(one.detectable) else f"{one.detectable:.1%}"
        p = "-" if math.isnan(one.p) else f"{one.p:.3f}"
        ratio, n = f"{one.ratio.estimate:.3f}{bounds}", f"{one.n[0]}+{one.n[1]}"
        lines += [f"  {one.cell}", f"  {'':<4} {n:>9} {ratio:>22} {p:>7} {sees:>7}  {one.words}"]
    lines += [
        "  sees: the smallest difference that these runs show with 80 % power",
        f"  p: rank test, Holm over all cells; equivalent: within {margin:.0%} by two one-sided tests",
    ]
    if any(one.words == "too few" for one in verdicts):
        lines.append("  too few: no ranks of so few runs give p < 0.05; 6 pairs can, or 4 and 4")
    return "\n".join(lines) + "\n"


def paired_groups(samples: Sequence[Sample], first: str, second: str, margin: float = 0.05) -> list[Verdict]:
    """Two targets in every group that has starts of both; p-values adjusted by Holm over the groups."""
    groups = dict.fromkeys(one.cell.removesuffix(f"/{first}") for one in samples if one.target == first)
    cells = set(by_cell(samples))
    found = [
        paired(samples, group, first, second, margin)
        for group in groups
        if {f"{group}/{first}", f"{group}/{second}"} <= cells
    ]
    adjusted = stats.holm({one.cell: one.p for one in found})
    return [
        one._replace(
            p=adjusted[one.cell],
            words=_words(adjusted[one.cell], one.equivalent_p < ALPHA, 2.0 ** (1 - one.n[0])),
        )
        for one in found
    ]


def paired(samples: Sequence[Sample], group: str, first: str, second: str, margin: float = 0.05) -> Verdict:
    """Two targets of one group, paired by block: second over first, Wilcoxon's signed ranks on log ratios."""
    found = {name: _by_block(samples, f"{group}/{name}") for name in (first, second)}
    blocks = sorted(set(found[first]) & set(found[second]))
    bases, tops = [found[first][block] for block in blocks], [found[second][block] for block in blocks]
    p = stats.wilcoxon([math.log(top / base) for top, base in zip(tops, bases, strict=True)]).p
    same = stats.equivalent(bases, tops, margin)
    return Verdict(
        cell=f"{group}: {second} over {first}",
        n=(len(bases), len(tops)),
        ratio=stats.ratio_interval(list(zip(tops, bases, strict=True))),
        shift=stats.hodges_lehmann(bases, tops),
        delta=stats.cliffs_delta(bases, tops),
        p=p,
        equivalent_p=same.p,
        detectable=stats.detectable(bases, tops),
        words=_words(p, same.equivalent, 2.0 ** (1 - len(blocks))),
    )


def _by_block(samples: Iterable[Sample], cell: str) -> dict[int, float]:
    """Block -> seconds; the median where a block has a batch."""
    found: dict[int, list[float]] = defaultdict(list)
    for one in samples:
        if one.cell == cell:
            found[one.block] += [value for value in times_s([one]) if value > 0]
    return {block: statistics.median(values) for block, values in found.items() if values}
