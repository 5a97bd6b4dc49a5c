"""Two sets of samples, cell by cell: is there a difference, and which could have been seen?"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bench.core import stats
from bench.core.sample import Sample
from bench.core.stats import Interval
from bench.core.summary import times_s

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
        words=_words(p, same.equivalent),
    )


def _words(p: float, equivalent: bool) -> str:
    if math.isnan(p):
        return "too few"
    if p < ALPHA:
        return "different"
    return "equivalent" if equivalent else "undecided"


def to_table(verdicts: Sequence[Verdict], margin: float = 0.05) -> str:
    """The verdicts for 80 columns."""
    lines = [f"  {'':<31} {'n':>7} {'ratio (95 %)':>21} {'p':>6} {'sees':>6}  verdict"]
    for one in verdicts:
        n = f"{one.n[0]}+{one.n[1]}"
        bounds = "" if math.isnan(one.ratio.low) else f" ({one.ratio.low:.3f}..{one.ratio.high:.3f})"
        sees = "-" if math.isnan(one.detectable) else f"{one.detectable:.1%}"
        p = "-" if math.isnan(one.p) else f"{one.p:.3f}"
        if len(one.cell) > 31:
            lines.append(f"  {one.cell}")
        name = "" if len(one.cell) > 31 else one.cell
        lines.append(
            f"  {name:<31} {n:>7} {f'{one.ratio.estimate:.3f}{bounds}':>21} {p:>6} {sees:>6}  {one.words}"
        )
    lines.append(
        "  sees: the smallest difference that these runs show with 80 % power; p: Mann-Whitney, Holm;"
    )
    lines.append(f"  equivalent: within {margin:.0%} by two one-sided tests")
    return "\n".join(lines) + "\n"


def paired(samples: Sequence[Sample], group: str, first: str, second: str) -> Verdict:
    """Two targets of one group, paired by block: second over first, sign-flip permutation on log ratios."""
    found = {name: _by_block(samples, f"{group}/{name}") for name in (first, second)}
    blocks = sorted(set(found[first]) & set(found[second]))
    pairs = [(found[second][block], found[first][block]) for block in blocks]
    differences = [math.log(top / base) for top, base in pairs if top > 0 and base > 0]
    tops, bases = [top for top, _ in pairs], [base for _, base in pairs]
    test = stats.wilcoxon(differences)
    same = stats.equivalent(bases, tops, 0.05)
    return Verdict(
        cell=f"{group}: {second} over {first}",
        n=(len(bases), len(tops)),
        ratio=stats.ratio_interval(pairs),
        shift=stats.hodges_lehmann(bases, tops),
        delta=stats.cliffs_delta(bases, tops),
        p=test.p,
        equivalent_p=same.p,
        detectable=stats.detectable(bases, tops),
        words=_words(test.p, same.equivalent),
    )


def _by_block(samples: Iterable[Sample], cell: str) -> dict[int, float]:
    return {one.block: times_s([one])[0] for one in samples if one.cell == cell and times_s([one])}
