"""Medians of several results, oldest first: across commits, versions and hosts."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

from bench.core import summary
from bench.core.export import value_text
from bench.core.sample import Sample
from bench.core.summary import Row

WIDTH = 79
_COLUMN = 10


def to_text(results: Mapping[str, Sequence[Sample]]) -> str:
    """Which results there are (name -> samples), then a line for each number that two of them have.

    The last column is the newest median over the oldest: between two hosts it compares hosts, too.
    """
    ordered = sorted(results.items(), key=lambda one: _began_unix_s(one[1]))
    lines = [_result(place, name, samples) for place, (name, samples) in enumerate(ordered, 1)]
    columns = [
        {(row.group, label(row)): row for row in summary.rows(samples) if row.n} for _, samples in ordered
    ]
    keys = dict.fromkeys(key for column in columns for key in column)
    previous = ""
    for group, name in keys:
        found = [column.get((group, name)) for column in columns]
        if group != previous:
            lines += ["", group]
        previous = group
        lines += _line(name, found)
    return "\n".join(lines)


def label(row: Row) -> str:
    """Target and number."""
    return f"{row.target} {row.what}"


def _result(place: int, name: str, samples: Sequence[Sample]) -> str:
    if not samples:
        return f"{place:>3}  no samples  {name}"
    one = samples[0]
    date = time.strftime("%Y-%m-%d %H:%M", time.localtime(_began_unix_s(samples)))
    return f"{place:>3}  {date}  vmm {one.versions.get('vmm', '?')}  {one.host.get('id', '?')}  {name}"


def _line(name: str, found: Sequence[Row | None]) -> list[str]:
    """A number of all results; beyond six of them on lines of their own."""
    values = [value_text(row.median.estimate, row.what) if row else "-" for row in found]
    known = [row.median.estimate for row in found if row and not math.isnan(row.median.estimate)]
    if len(known) > 1 and known[0]:
        values.append(f"x{known[-1] / known[0]:.3g}")
    cells = [f"{value:>{_COLUMN}}" for value in values]
    wide = WIDTH - 30
    fitting = wide // (_COLUMN + 1)
    head = f"  {name:<28}"
    if len(name) > 28:
        return [f"  {name}", *(_row(" " * 30, part) for part in _parts(cells, fitting))]
    return [_row(head if not place else " " * 30, part) for place, part in enumerate(_parts(cells, fitting))]


def _row(head: str, cells: Sequence[str]) -> str:
    return head + " ".join(cells)


def _parts(cells: Sequence[str], size: int) -> list[Sequence[str]]:
    return [cells[first : first + size] for first in range(0, len(cells), size)]


def _began_unix_s(samples: Sequence[Sample]) -> float:
    return min((one.began_unix_s for one in samples), default=0.0)
