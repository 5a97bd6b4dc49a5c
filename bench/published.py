"""What others published, as data, and our results beside it: by ratio, rank order and slope only.

Absolute times of two machines say nothing about each other, so none is ever put beside another here.
"""

from __future__ import annotations

import math
import textwrap
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from bench.core import stats, summary
from bench.core.sample import Sample

TAGS = ("raw", "doc")  # recomputed from the authors' data; read in the tool's own documentation or source


@dataclass(frozen=True)
class Table:
    """A published table: rows of one unit, or series of points; `like` says what of ours stands beside it."""

    id: str
    title: str
    source: str
    tag: str
    unit: str
    n: int
    setup: str
    rows: Mapping[str, float] = field(default_factory=dict)
    series: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    like: Sequence[Mapping[str, Any]] = ()


class Beside(NamedTuple):
    """A published row over its base, and ours."""

    name: str
    theirs: float
    ours: float


class Comparison(NamedTuple):
    """One table beside our results: ratios, Kendall's tau of the order, slopes of series."""

    table: Table
    base: str
    ratios: tuple[Beside, ...]
    tau: float
    slopes: tuple[tuple[str, float], ...]
    our_slope: float


def tables() -> tuple[Table, ...]:
    """Every published table that comes with vmm."""
    raw = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
    return tuple(Table(**one) for one in raw["tables"])


def compared(samples: Sequence[Sample]) -> list[Comparison]:
    """The tables that our samples have something to stand beside, in order."""
    medians = _medians(samples)
    found = [_compared(table, like, medians, samples) for table in tables() for like in table.like]
    return [one for one in found if one is not None]


def _medians(samples: Sequence[Sample]) -> dict[str, float]:
    """`CELL:number` -> median."""
    return {
        f"{row.group}/{row.target}:{row.what}": row.median.estimate for row in summary.rows(samples) if row.n
    }


def _compared(
    table: Table, like: Mapping[str, Any], medians: Mapping[str, float], samples: Sequence[Sample]
) -> Comparison | None:
    if "series" in like:
        return _series(table, like, samples)
    ours = {name: medians.get(cell if ":" in cell else f"{cell}:{like['what']}")
            for name, cell in like["rows"].items()}  # fmt: skip
    base = like["base"]
    known = {name: value for name, value in ours.items() if value is not None and not math.isnan(value)}
    if base not in known or len(known) < 2:
        return None
    ratios = tuple(
        Beside(name, table.rows[name] / table.rows[base], value / known[base])
        for name, value in known.items()
        if name != base
    )
    tau = kendall([table.rows[name] for name in known], list(known.values()))
    return Comparison(table, base, ratios, tau, (), math.nan)


def _series(table: Table, like: Mapping[str, Any], samples: Sequence[Sample]) -> Comparison | None:
    """Growth with the number of instances: exponents of y = a * x**c."""
    points = [
        (one.values["instances"], one.values[like["what"]])
        for one in samples
        if one.cell == like["series"] and one.status == "ok" and like["what"] in one.values
    ]
    if len({x for x, _ in points}) < 3:
        return None
    theirs = tuple((name, _exponent(found)) for name, found in table.series.items())
    return Comparison(table, "", (), math.nan, theirs, _exponent(points))


def _exponent(points: Sequence[tuple[float, float]]) -> float:
    return stats.log_log_slope([x for x, _ in points], [y for _, y in points]).estimate


def kendall(first: Sequence[float], second: Sequence[float]) -> float:
    """Kendall's tau-b of two orders: 1 the same, -1 turned round; NaN for fewer than two."""
    from scipy.stats import kendalltau

    return float(kendalltau(first, second).statistic) if len(first) > 1 else math.nan


def to_text(comparisons: Sequence[Comparison]) -> str:
    """For a terminal of 80 columns."""
    lines = []
    for one in comparisons:
        table = one.table
        lines += [
            f"{table.id}  {table.title}",
            *textwrap.wrap(f"{table.source} [{table.tag}], n={table.n}, {table.setup}", 79,
                           initial_indent="    ", subsequent_indent="    "),
        ]  # fmt: skip
        for beside in one.ratios:
            line = f"{beside.name} / {one.base}"
            lines.append(f"    {line:<34} published {beside.theirs:8.3g} x  yours {beside.ours:8.3g} x")
        if one.ratios:
            lines.append(f"    rank order: Kendall tau {one.tau:.2f}")
        for name, slope in one.slopes:
            lines.append(f"    {'growth with instances: exponent, ' + name:<44} published {slope:8.2f}")
        if one.slopes:
            lines.append(f"    {'':<44} yours     {one.our_slope:8.2f}")
        lines.append("")
    lines.append("Ratios, order and slopes only: absolute times of two machines cannot be compared.")
    return "\n".join(lines)
