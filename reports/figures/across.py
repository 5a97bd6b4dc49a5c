"""One ratio measured on several hosts: a row a ratio, a mark a set, all on one log axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.core.stats import Interval
from reports import scales, units
from reports.figures.figure import Figure, Table, figure, x_axis
from reports.svg import Svg, text_width

# Colour and height within the row tell sets apart; the inks are those of no target that is compared here.
INKS = ("ct", "vm", "podman", "vm-libvirt", "clone", "bwrap", "runc", "lxc")
PITCH = 15.0


@dataclass(frozen=True)
class Across:
    """One ratio of one set."""

    label: str
    set_name: str
    accelerator: str
    ratio: Interval
    n: int


def across_figure(rows: Sequence[Across], names: Sequence[str]) -> Figure | None:
    """All shared ratios; None where no two sets have one in common."""
    if not rows:
        return None
    counts = [row.n for row in rows]
    caption = (
        f"Ratios within each set with 95 % bootstrap intervals, n = {min(counts)} to {max(counts)} runs a "
        "target. "
        "Sets: " + "; ".join(names) + "."
    )
    return figure(
        "across",
        "The same ratio on each host",
        caption,
        lambda width: _draw(rows, names, width),
        _table(rows),
    )


def _draw(rows: Sequence[Across], names: Sequence[str], width: float) -> Svg:
    labels = list(dict.fromkeys(row.label for row in rows))
    narrow = width < 500
    gutter = 14.0 if narrow else 24 + max(text_width(label, 12.5) for label in labels)
    top = 10 + len(names) * 22.0
    height = len(names) * PITCH + (34 if narrow else 16)
    bottom = top + len(labels) * height
    svg = Svg(width, bottom + 46, _alt(rows), "across")
    reach = [value for row in rows for value in (row.ratio.low, row.ratio.high)]
    x = scales.log_scale([1.0, *reach], gutter, width - 84)
    for place, name in enumerate(names):
        svg.circle(8, 11 + place * 22.0, 5, f"dot ink-{INKS[place]}")
        svg.text(22, 15 + place * 22.0, name, "legend")
    x_axis(svg, x, scales.RATIO, top, bottom, "times the reference")
    svg.line(x(1), top, x(1), bottom, "bound")
    for index, label in enumerate(labels):
        y = top + index * height
        if narrow:
            svg.text(2, y + 14, label, "legend")
        else:
            svg.text(x.start_px - 14, y + height / 2 + 4, label, "legend", "end")
        for row in rows:
            if row.label == label:
                _mark(svg, row, x, y + (28 if narrow else 14) + names.index(row.set_name) * PITCH, names)
    return svg


def _mark(svg: Svg, row: Across, x: scales.Scale, y: float, names: Sequence[str]) -> None:
    css = f"ink-{INKS[names.index(row.set_name)]}"
    svg.line(x(row.ratio.low), y, x(row.ratio.high), y, f"whisker thin {css}")
    svg.circle(
        x(row.ratio.estimate), y, 4.5, f"dot {css}", f"{row.set_name}: {units.times(row.ratio.estimate)}"
    )
    words = f"{units.times(row.ratio.estimate)} {row.accelerator}".strip()
    svg.text(x(row.ratio.high) + 10, y + 4, words, "legend")


def _alt(rows: Sequence[Across]) -> str:
    told = "; ".join(f"{row.label} {units.times(row.ratio.estimate)} in {row.set_name}" for row in rows[:12])
    return f"Ratios of several sets of results on one log axis: {told}."


def _table(rows: Sequence[Across]) -> Table:
    body = [
        (
            row.label,
            row.set_name,
            row.accelerator or "–",
            units.times(row.ratio.estimate),
            f"{units.times(row.ratio.low)} to {units.times(row.ratio.high)}",
            str(row.n),
        )
        for row in sorted(rows, key=lambda row: row.label)
    ]
    return Table(("ratio", "set", "accelerator", "median", "95 % interval", "n"), tuple(body))
