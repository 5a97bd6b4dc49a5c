"""Rows for a terminal of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from bench.core import noise
from bench.core.export import by_group, heading, label, range_text, ratio_range, ratio_text, value_text
from bench.core.sample import Sample
from bench.core.summary import Row

# what -> heading, in the order of columns, for groups whose targets are told side by side
COLUMNS = {
    "pss_bytes": "PSS", "uss_bytes": "USS", "rss_bytes": "RSS", "guest_used_bytes": "guest used",
    "configured_bytes": "configured", "apparent_bytes": "apparent", "allocated_bytes": "allocated",
    "unique_bytes": "unique", "transfer_bytes": "transfer",
}  # fmt: skip
WIDTH = 79


def to_table(rows: Sequence[Row]) -> str:
    """All groups, each with what its numbers are."""
    lines: list[str] = []
    for group, members in by_group(rows):
        lines += [group, f"  {heading(members)}"]
        is_matrix = members[0].mode in ("memory", "disk") and members[0].what != "slope_bytes"
        lines += [*(_matrix(members) if is_matrix else _list(members)), ""]
    return "\n".join(line.rstrip() for line in lines)


def disturbed(samples: Iterable[Sample]) -> str:
    """What may have disturbed the runs, empty where nothing did."""
    lines = [
        textwrap.fill(one, WIDTH, initial_indent="  ", subsequent_indent="    ")
        for one in noise.told(samples)
    ]
    return "\n".join(["what may have disturbed the runs (results.csv says which)", *lines]) if lines else ""


def _list(members: Sequence[Row]) -> list[str]:
    """One line a target: median, interval, ratio."""
    base = next((row.base for row in members if row.base), None)
    ratio = f"x {base}" if base else ""
    wide = max(17, *(len(label(row)) for row in members))
    lines = [f"  {'':<{wide}} {'n':>3} {'median':>10} {'95 % interval':>21} {ratio:>{38 - wide}}"]
    names = dict.fromkeys(row.what for row in members)
    for what in names:
        if len(names) > 1:
            lines.append(f"  {what}")
        lines += [_line(row, wide) for row in members if row.what == what]
    return lines


def _line(row: Row, wide: int) -> str:
    if not row.n:
        return f"  {label(row):<{wide}} {_first_line(row)}"[:WIDTH]
    ratio = f"{ratio_text(row)} {ratio_range(row)}".strip()
    value = value_text(row.median.estimate, row.what)
    line = (
        f"  {label(row):<{wide}} {row.n:>3} {value:>10} {range_text(row):>21} {ratio:>{38 - wide}}".rstrip()
    )
    if not row.bad:
        return line
    short = f"{line}  {row.bad} bad"
    return short if len(short) <= WIDTH else f"{line}\n  {'':<17} {row.bad} more failed"


def _matrix(members: Sequence[Row]) -> list[str]:
    """One line a target, its numbers side by side; the rest is in results.csv."""
    names = [what for what in COLUMNS if any(row.what == what and row.n for row in members)]
    lines = ["  " + f"{'':<17} " + " ".join(f"{COLUMNS[what]:>10}" for what in names)]
    for target in dict.fromkeys(label(row) for row in members):
        found = {row.what: row for row in members if label(row) == target}
        worked = [row for row in found.values() if row.n]
        if not worked:
            lines.append(f"  {target:<17} {_first_line(next(iter(found.values())))}"[:WIDTH])
            continue
        values = (value_text(found[what].median.estimate, what) if what in found else "-" for what in names)
        lines.append("  " + f"{target:<17} " + " ".join(f"{value:>10}" for value in values))
    return lines


def _first_line(row: Row) -> str:
    return row.why.splitlines()[0] if row.why else "no good run"
