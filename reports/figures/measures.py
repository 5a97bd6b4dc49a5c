"""Several measures of one thing on one row a target: memory by PSS, USS, RSS..., disk by apparent,
allocated, unique."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from reports import scales, units
from reports.figures.figure import Figure, Table, figure, x_axis
from reports.gathered import Group, Series, values_of
from reports.svg import Svg, text_width


@dataclass(frozen=True)
class Measure:
    """One measure: its name in the results, its words, and its mark; the first of a list is the one written
    out."""

    name: str
    words: str
    mark: str


MEMORY = (
    Measure("pss_bytes", "PSS (private + share of shared)", "disc"),
    Measure("uss_bytes", "USS (private only)", "bar"),
    Measure("rss_bytes", "RSS (shared counted in full)", "ring"),
    Measure("guest_used_bytes", "guest's own view", "diamond"),
    Measure("configured_bytes", "configured RAM", "square"),
)
DISK = (
    Measure("unique_bytes", "unique (shared with nobody)", "disc"),
    Measure("allocated_bytes", "allocated (blocks on disk)", "ring"),
    Measure("apparent_bytes", "apparent (file length)", "square"),
)
ROW = 40.0


@dataclass(frozen=True)
class Row:
    """One target's medians, by measure name."""

    label: str
    css: str
    medians: dict[str, float]
    runs: int


def measures_figure(group: Group, measures: Sequence[Measure], title: str, caption: str) -> Figure | None:
    """One row a target, one mark a measure, on one log axis."""
    rows = [row for series in group.series if (row := _row(series, measures)).medians]
    if not rows:
        return None
    used = [measure for measure in measures if any(measure.name in row.medians for row in rows)]
    runs = sorted({row.runs for row in rows})
    n = str(runs[0]) if len(runs) == 1 else f"{runs[0]} to {runs[-1]}"
    subject = f"{title}, {group.subject}"
    return figure(
        f"measures-{group.slug}",
        subject,
        f"Medians, n = {n} a target. {caption}",
        lambda width: _draw(rows, used, width, subject),
        _table(rows, used),
    )


def _row(series: Series, measures: Sequence[Measure]) -> Row:
    good = series.good()
    found = {measure.name: values_of(good, measure.name) for measure in measures}
    medians = {name: statistics.median(values) for name, values in found.items() if values}
    return Row(series.label, series.css, medians, max((len(values) for values in found.values()), default=0))


def _draw(rows: Sequence[Row], measures: Sequence[Measure], width: float, subject: str) -> Svg:
    narrow = width < 500
    gutter = 14.0 if narrow else 24 + max(text_width(row.label) for row in rows)
    pitch = ROW + (16 if narrow else 0)
    legend = _legend_places(measures, width)
    top = 14 + (legend[-1][1] + 1) * 22.0
    bottom = top + len(rows) * pitch
    svg = Svg(width, bottom + 46, _alt(rows, measures, subject), "measures")
    x = scales.log_scale([v for row in rows for v in row.medians.values()], gutter, width - 90)
    for measure, (left, line) in zip(measures, legend, strict=True):
        _mark(svg, measure.mark, left + 8, 12 + line * 22.0, "legend-mark")
        svg.text(left + 20, 16 + line * 22.0, measure.words, "legend")
    x_axis(
        svg,
        x,
        scales.SIZE,
        top,
        bottom,
        f"size; {measures[0].words.split(' ')[0]} written out",
    )
    for index, row in enumerate(rows):
        _draw_row(svg, row, measures, x, top + index * pitch + pitch / 2 + (9 if narrow else 0), narrow)
    return svg


def _draw_row(
    svg: Svg, row: Row, measures: Sequence[Measure], x: scales.Scale, y: float, narrow: bool
) -> None:
    places = [x(value) for value in row.medians.values()]
    if narrow:
        svg.text(x.start_px, y - 17, row.label, f"label {row.css}")
    else:
        svg.text(x.start_px - 14, y + 4, row.label, f"label {row.css}", "end")
    svg.line(min(places), y, max(places), y, f"range {row.css}")
    for measure in reversed(measures):
        if measure.name in row.medians:
            _mark(svg, measure.mark, x(row.medians[measure.name]), y, row.css)
    if measures[0].name in row.medians:
        svg.text(max(places) + 14, y + 4, units.size(row.medians[measures[0].name]), "value")


def _mark(svg: Svg, mark: str, x: float, y: float, css: str) -> None:
    """The shape of a measure; shape and not only colour tells measures apart."""
    if mark == "disc":
        svg.circle(x, y, 6, f"dot {css}")
    elif mark == "ring":
        svg.circle(x, y, 6, f"hollow {css}")
    elif mark == "bar":
        svg.rect(x - 1.5, y - 8, 3, 16, f"dot {css}")
    elif mark == "diamond":
        svg.path(f"M{x:.1f} {y - 7}l7 7l-7 7l-7 -7z", f"hollow {css}")
    else:
        svg.rect(x - 5.5, y - 5.5, 11, 11, f"hollow {css}")


def _legend_places(measures: Sequence[Measure], width: float) -> list[tuple[float, int]]:
    places: list[tuple[float, int]] = []
    x, line = 0.0, 0
    for measure in measures:
        need = text_width(measure.words, 12) + 34
        if x and x + need > width:
            x, line = 0.0, line + 1
        places.append((x, line))
        x += need
    return places


def _alt(rows: Sequence[Row], measures: Sequence[Measure], subject: str) -> str:
    first = measures[0]
    told = [f"{row.label} {units.size(row.medians[first.name])}" for row in rows if first.name in row.medians]
    return f"{subject}, {first.words}, log axis: {'; '.join(told)}."


def _table(rows: Sequence[Row], measures: Sequence[Measure]) -> Table:
    head = ("target", "n", *(measure.words for measure in measures))
    body = tuple(
        (row.label, str(row.runs), *(_cell(row, measure) for measure in measures))
        for row in rows
    )  # fmt: skip
    return Table(head, body)


def _cell(row: Row, measure: Measure) -> str:
    return units.size(row.medians[measure.name]) if measure.name in row.medians else "–"
