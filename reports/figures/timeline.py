"""Where the time goes: machines over containers on one linear time axis, and the container's bar enlarged
below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reports import palette, scales, units
from reports.figures.figure import Figure, Table, figure, wrap, x_axis
from reports.gathered import Group
from reports.phases import Phase, phases
from reports.svg import Svg, text_width

BAR, LENS_BELOW, ROOM = 30.0, 0.25, 76.0
PANEL_FOOT = 84.0  # the axis below a panel, and the funnel to the next one


@dataclass(frozen=True)
class Lane:
    """One target's bar."""

    label: str
    css: str
    phases: tuple[Phase, ...]
    runs: int

    @property
    def end_s(self) -> float:
        return self.phases[-1].end_s

    @property
    def reply_s(self) -> float:
        return next(phase.end_s for phase in self.phases if phase.last == "t8")


def lanes(group: Group) -> list[Lane]:
    """Machines first, then containers and peers, the slowest on top."""
    made = []
    for series in group.series:
        found = phases(series, palette.is_machine(series.target))
        if found:
            made.append(Lane(series.label, series.css, tuple(found), len(found[0].lengths_s)))
    return sorted(made, key=lambda lane: -lane.reply_s)


def timeline_figure(group: Group) -> Figure | None:
    """The phase timeline of one group."""
    bars = lanes(group)
    if not bars:
        return None
    runs = sorted({bar.runs for bar in bars})
    n = str(runs[0]) if len(runs) == 1 else f"{runs[0]} to {runs[-1]}"
    caption = (
        f"Medians of each edge, n = {n} runs a target; the number beside a bar is t0 → t8. The pale last "
        "part is "
        "teardown, t8 → t9. An edge that a target does not have (a container has no firmware) takes no time "
        "here."
    )
    return figure(
        f"timeline-{group.slug}",
        f"Where the time goes: {group.subject}, {group.mode} mode",
        caption,
        lambda width: _draw(bars, width, f"{group.subject}, {group.mode} mode"),
        _table(bars),
        any(series.emulated for series in group.series),
    )


def _draw(bars: Sequence[Lane], width: float, subject: str) -> Svg:
    narrow = width < 500
    gutter = 10.0 if narrow else 24 + max(text_width(bar.label) for bar in bars)
    pitch = BAR + (26 if narrow else 16)
    panels = _panels(bars)
    legend = _legend_rows(bars, width)
    height = sum(len(panel) * pitch + PANEL_FOOT for panel in panels) + len(legend) * 22
    svg = Svg(width, height + 6, _alt(bars, subject), "timeline")
    top, above = 6.0, None
    for panel in panels:
        x = scales.linear_scale(panel[0].end_s, gutter, width - ROOM)
        if above:
            _lens(svg, above, x, top - 40, top)
        _panel(svg, panel, x, top, pitch, narrow)
        top += len(panel) * pitch + PANEL_FOOT
        above = x
    _legend(svg, legend, top - 18)
    return svg


def _panels(bars: Sequence[Lane]) -> list[list[Lane]]:
    """All bars, then those too short to be seen again on an axis of their own, at most twice."""
    panels = [list(bars)]
    while len(panels) < 3:
        short = [bar for bar in panels[-1] if bar.end_s < LENS_BELOW * panels[-1][0].end_s]
        if not short:
            break
        panels.append(short)
    return panels


def _seconds_ticks(scale: scales.Scale) -> scales.Quantity:
    return scales.Quantity("time", lambda value: units.seconds(value, 2) if value else "0", ())


def _panel(svg: Svg, bars: Sequence[Lane], x: scales.Scale, top: float, pitch: float, narrow: bool) -> None:
    x_axis(svg, x, _seconds_ticks(x), top, top + len(bars) * pitch, "time from request")
    for index, bar in enumerate(bars):
        y = top + index * pitch + (22 if narrow else 8)
        if narrow:
            svg.text(x.start_px, y - 6, bar.label, f"label {bar.css}")
        else:
            svg.text(x.start_px - 12, y + BAR / 2 + 4, bar.label, f"label {bar.css}", "end")
        for phase in bar.phases:
            _segment(svg, phase, x, y)
        svg.text(x(bar.end_s) + 8, y + BAR / 2 + 4, units.seconds(bar.reply_s), "value")


def _segment(svg: Svg, phase: Phase, x: scales.Scale, y: float) -> None:
    left, right = x(phase.start_s), x(phase.end_s)
    gap = 1.0 if right - left > 3 else 0.0
    svg.rect(left, y, right - left - gap, BAR, f"phase ink-{palette.PHASES[phase.last].css}")
    if text_width(phase.words, 12) + 12 < right - left:
        svg.text((left + right) / 2, y + BAR / 2 + 4, phase.words, "inside", "middle")


def _lens(svg: Svg, above: scales.Scale, here: scales.Scale, top: float, bottom: float) -> None:
    """The pale funnel from the short bars above down to their enlargement."""
    edge = max(above(here.high), above.start_px + 2)
    svg.path(f"M{above.start_px} {top}H{edge:.1f}L{here.end_px:.1f} {bottom}H{here.start_px}Z", "lens")
    by = units.significant((above.high - above.low) / (here.high - here.low), 2)
    svg.text(here.start_px + 8, bottom - 7, f"the short bars again, enlarged {by} times", "note")


def _legend_rows(bars: Sequence[Lane], width: float) -> list[list[tuple[str, str]]]:
    """Every phase once, in order of its ending edge, broken into rows that fit."""
    known = {phase.last for bar in bars for phase in bar.phases}
    items = [
        (f"ink-{palette.PHASES[last].css}", words)
        for last, words in _phase_names(bars).items()
        if last in known
    ]
    rows: list[list[tuple[str, str]]] = [[]]
    used = 0.0
    for css, words in items:
        need = text_width(words, 12) + 34
        if rows[-1] and used + need > width:
            rows.append([])
            used = 0.0
        rows[-1].append((css, words))
        used += need
    return rows


def _phase_names(bars: Sequence[Lane]) -> dict[str, str]:
    names: dict[str, list[str]] = {}
    for bar in bars:
        for phase in bar.phases:
            words = names.setdefault(phase.last, [])
            if phase.words not in words:
                words.append(phase.words)
    return {last: f"→{last} {' / '.join(names[last])}" for last in sorted(names)}


def _legend(svg: Svg, rows: Sequence[Sequence[tuple[str, str]]], top: float) -> None:
    for index, row in enumerate(rows):
        x, y = 2.0, top + 14 + index * 22
        for css, words in row:
            svg.rect(x, y - 10, 12, 12, f"phase {css}", 2)
            for part in wrap(words, 10_000, 12):
                svg.text(x + 18, y, part, "legend")
            x += text_width(words, 12) + 34


def _alt(bars: Sequence[Lane], subject: str) -> str:
    told = []
    for bar in bars:
        longest = max(bar.phases, key=lambda phase: phase.median_s)
        share = longest.median_s / bar.end_s
        told.append(f"{bar.label} {units.seconds(bar.reply_s)}, longest phase {longest.words} ({share:.0%})")
    return f"Phases of a start of {subject} on one time axis: {'; '.join(told)}."


def _table(bars: Sequence[Lane]) -> Table:
    head = ("target", "phase", "edges", "median", "share of t0 → t9")
    rows = [
        (
            bar.label,
            phase.words,
            phase.interval,
            units.seconds(phase.median_s),
            f"{phase.median_s / bar.end_s:.1%}",
        )
        for bar in bars
        for phase in bar.phases
    ]
    return Table(head, tuple(rows))
