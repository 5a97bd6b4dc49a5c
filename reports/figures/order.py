"""Every run in the order it was taken, against its own target's median: drift would bend the cloud."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from reports import scales, units
from reports.figures.figure import Figure, Table, figure, y_axis
from reports.gathered import Group, interval_s
from reports.svg import Svg

MOST_DOTS = 2500
PLACES = (0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)
NEAR_ONE = scales.Quantity("ratio", scales.RATIO.words, PLACES)


@dataclass(frozen=True)
class Dot:
    """One run: when, against its median, and whether it failed."""

    began_s: float
    ratio: float | None
    label: str
    css: str


def dots(groups: Sequence[Group]) -> list[Dot]:
    """All runs of all groups on one clock."""
    made: list[Dot] = []
    for group in groups:
        for series in group.series:
            times = [(sample, interval_s(sample)) for sample in series.good()]
            known = [time for _, time in times if time and time > 0]
            middle = statistics.median(known) if known else 1.0
            name = f"{series.label}, {group.subject}, {group.mode}"
            made += [
                Dot(s.began_unix_s, time / middle, name, series.css) for s, time in times if time and time > 0
            ]
            made += [Dot(s.began_unix_s, None, f"{name}: {s.status}", series.css) for s in series.failures()]
    return sorted(made, key=lambda dot: dot.began_s)


def order_figure(groups: Sequence[Group]) -> Figure | None:
    """The run-order plot of all starts."""
    found = dots(groups)
    if not any(dot.ratio for dot in found):
        return None
    runs = sum(dot.ratio is not None for dot in found)
    drift = _drift(found)
    caption = (
        f"n = {runs} runs of all targets, each divided by the median of its own target; × marks a failed "
        "run. "
        f"The second half's middle lies {drift} the first half's. A slope or a step here would mean that "
        "the host "
        "changed while it was measured."
    )
    return figure(
        "order", "The runs in the order they were taken", caption, lambda w: _draw(found, w), _table(found)
    )


def _drift(found: Sequence[Dot]) -> str:
    ratios = [dot.ratio for dot in found if dot.ratio]
    half = len(ratios) // 2
    if half == 0:
        return "at"
    change = statistics.median(ratios[half:]) / statistics.median(ratios[:half]) - 1
    return f"{abs(change):.1%} {'above' if change >= 0 else 'below'}"


def _draw(found: Sequence[Dot], width: float) -> Svg:
    left, right, top, bottom = 52.0, width - 12, 40.0, 300.0
    began = found[0].began_s
    svg = Svg(width, bottom + 46, _alt(found), "order")
    x = scales.linear_scale(max(found[-1].began_s - began, 1.0), left, right)
    ratios = [dot.ratio for dot in found if dot.ratio]
    y = scales.log_scale([*ratios, 0.7, 1.4], bottom, top, 0.2)
    y_axis(svg, y, NEAR_ONE, left, right, "time / median of its target")
    svg.line(left, y(1), right, y(1), "axis")
    length_s = found[-1].began_s - began
    for tick in scales.linear_ticks(x, int((right - left) / 80), 1.0 if length_s < 120 else 60.0):
        svg.text(x(tick), bottom + 17, _clock(tick), "tick", "middle")
    svg.text(right, bottom + 36, "since the first run", "axis-name", "end")
    every = max(1, len(found) // MOST_DOTS)
    for dot in found[::every]:
        place = x(dot.began_s - began)
        if dot.ratio:
            svg.circle(place, y(dot.ratio), 3, f"run {dot.css}", f"{dot.label}: {units.times(dot.ratio)}")
        else:
            svg.path(f"M{place - 4:.1f} {bottom - 8}l8 -8m0 8l-8 -8", f"cross {dot.css}")
    return svg


def _clock(since_s: float) -> str:
    return f"{since_s:.0f} s" if since_s < 60 else f"{since_s / 60:g} min"


def _alt(found: Sequence[Dot]) -> str:
    failed = sum(dot.ratio is None for dot in found)
    return (
        f"{len(found)} runs in the order taken; the later half lies {_drift(found)} the earlier; "
        f"{failed} failed."
    )


def _table(found: Sequence[Dot]) -> Table:
    """Ten equal slices of the campaign: enough to see drift without thousands of rows."""
    ratios = [dot.ratio for dot in found if dot.ratio]
    slices = min(10, len(ratios))
    cuts = [len(ratios) * index // slices for index in range(slices + 1)]
    rows = [
        (f"{first + 1} to {last}", units.times(statistics.median(ratios[first:last])))
        for first, last in pairwise(cuts)
    ]
    return Table(("runs", "middle of time / median"), tuple(rows))
