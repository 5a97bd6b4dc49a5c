"""Start-up times as empirical distribution functions: every run is a step, failures keep a curve below 100
%."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from reports import scales, units
from reports.figures.figure import Figure, Table, figure, stagger, x_axis
from reports.gathered import Group, times_s
from reports.svg import Svg

MOST_STEPS = 400


@dataclass(frozen=True)
class Curve:
    """One target's sorted times, and how many tries they came from."""

    label: str
    css: str
    times_s: tuple[float, ...]
    tries: int

    @property
    def median_s(self) -> float:
        return statistics.median(self.times_s)


def curves(group: Group, last: str = "t8") -> list[Curve]:
    """One curve for each series that reached the edge at least once."""
    made = []
    for series in group.series:
        times = sorted(times_s(series.good(), "t0", last))
        if times:
            tries = len(times) + len(series.failures())
            made.append(Curve(series.label, series.css, tuple(times), tries))
    return made


def start_figure(group: Group) -> Figure | None:
    """The ECDF of one group's starts, t0 to t8."""
    lines = curves(group)
    if not lines:
        return None
    ends = "request to sshd's first byte" if group.mode == "boot" else "request to the first correct reply"
    runs = sorted({len(line.times_s) for line in lines})
    n = f"n = {runs[0]}" if len(runs) == 1 else f"n = {runs[0]} to {runs[-1]}"
    emulated = any(series.emulated for series in group.series)
    caption = (
        f"Interval t0 → t8, {ends}; {n} runs a target, interleaved in random order, warm-ups left out. "
        "A dot marks the median. A curve that stays below 100 % had failed runs."
    )
    return figure(
        f"ecdf-{group.slug}",
        f"Every start of {group.subject}, {group.mode} mode",
        caption,
        lambda width: _draw(lines, width, f"{group.subject}, {group.mode} mode"),
        _table(lines),
        emulated,
    )


def _draw(lines: Sequence[Curve], width: float, subject: str) -> Svg:
    left, right = 46.0, width - 16
    names = [f"{line.label}  {units.seconds(line.median_s)}" for line in lines]
    x = scales.log_scale([time for line in lines for time in line.times_s], left, right)
    places = stagger(
        [(x(line.median_s), name) for line, name in zip(lines, names, strict=True)], 4, width - 4
    )
    rows = max(place.row for place in places) + 1
    top = 14 + rows * 20.0
    bottom = top + (260 if width > 500 else 220)
    svg = Svg(width, bottom + 46, _alt(lines, subject), "ecdf")
    y = scales.linear_scale(1.0, bottom, top)
    for share in (0, 0.25, 0.5, 0.75, 1.0):
        svg.line(left, y(share), right, y(share), "grid")
        svg.text(left - 8, y(share) + 4, f"{share:.0%}", "tick", "end")
    x_axis(svg, x, scales.DURATION, top, bottom, "time from request, t0 → t8")
    for line, name, place in zip(lines, names, places, strict=True):
        label_y = 14 + place.row * 20.0
        svg.add(
            "line", f"leader {line.css}", x1=x(line.median_s), x2=x(line.median_s), y1=label_y + 4, y2=y(0.5)
        )
        svg.path(_steps(line, x, y), f"curve {line.css}")
        svg.circle(x(line.median_s), y(0.5 * len(line.times_s) / line.tries), 4.5, f"dot {line.css}", name)
        svg.text(place.x, label_y, name, f"label {line.css}")
    return svg


def _steps(line: Curve, x: scales.Scale, y: scales.Scale) -> str:
    """The step path; beyond MOST_STEPS samples only every k-th step is drawn (all are in the CSV)."""
    every = max(1, len(line.times_s) // MOST_STEPS)
    parts = [f"M{x(line.times_s[0]):.1f} {y(0):.1f}"]
    for index, time in enumerate(line.times_s):
        if index % every == 0 or index == len(line.times_s) - 1:
            parts.append(f"H{x(time):.1f}V{y((index + 1) / line.tries):.1f}")
    return "".join([*parts, f"H{x.end_px:.1f}"])


def _alt(lines: Sequence[Curve], subject: str) -> str:
    told = "; ".join(f"{line.label} median {units.seconds(line.median_s)}" for line in lines)
    return f"Distribution of start-up times of {subject}, from request to reply, log time axis: {told}."


def _table(lines: Sequence[Curve]) -> Table:
    head = ("target", "runs", "failed", "fastest", "25 %", "median", "75 %", "slowest")
    return Table(head, tuple(_row(line) for line in lines))


def _row(line: Curve) -> tuple[str, ...]:
    count = len(line.times_s)
    places = (0, (count - 1) // 4, (count - 1) * 3 // 4, count - 1)
    low, quarter, three, high = (units.seconds(line.times_s[place]) for place in places)
    failed = str(line.tries - count)
    return (line.label, str(count), failed, low, quarter, units.seconds(line.median_s), three, high)
