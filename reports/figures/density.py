"""Density: how long the k-th instance takes to start, and how many the memory would hold."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from reports import scales, units
from reports.figures.figure import Figure, Table, figure, x_axis, y_axis
from reports.figures.slope import COUNT, Slope, slopes
from reports.gathered import Group, Series
from reports.svg import Svg, text_width

READING = "start_of_this_s"
# What the host keeps for itself: the stop rule of a density ramp, declared before it.
KEPT_SHARE = 0.05
ROW = 46.0
INSTANCES = scales.Quantity("instances", lambda value: f"{value:,.0f}", tuple(scales.decades()))


@dataclass(frozen=True)
class Ramp:
    """One target's starts by how many were there: (k, seconds) of every reading."""

    label: str
    css: str
    points: tuple[tuple[float, float], ...]

    def medians(self) -> list[tuple[float, float]]:
        """The median start of each k."""
        by_count: dict[float, list[float]] = defaultdict(list)
        for count, took_s in self.points:
            by_count[count].append(took_s)
        return [(count, statistics.median(found)) for count, found in sorted(by_count.items())]


def kth_figure(group: Group) -> Figure | None:
    """The start of the k-th instance over k, all targets on one log time axis."""
    ramps = [ramp for series in group.series if (ramp := _ramp(series))]
    if not ramps:
        return None
    most = max(ramp.points[-1][0] for ramp in ramps)
    readings = sorted({len(ramp.points) for ramp in ramps})
    n = str(readings[0]) if len(readings) == 1 else f"{readings[0]} to {readings[-1]}"
    caption = (
        f"Start of the k-th instance of {group.subject} while the k - 1 before it run idle, k up to "
        f"{most:.0f}, n = {n} readings a target: each a dot, the line through the medians. Request to ready. "
        "A flat line means that those already there do not slow the next one."
    )
    return figure(
        f"kth-{group.slug}",
        f"The start of the k-th instance: {group.subject}",
        caption,
        lambda width: _draw_ramps(ramps, width, group.subject),
        _ramp_table(ramps),
        any(series.emulated for series in group.series),
    )


def _ramp(series: Series) -> Ramp | None:
    read = [
        (float(one.values["instances"]), float(one.values[READING]))
        for one in series.good()
        if {"instances", READING} <= one.values.keys() and one.values[READING] > 0
    ]
    points = tuple(sorted(read))
    return Ramp(series.label, series.css, points) if len({count for count, _ in points}) > 1 else None


def _draw_ramps(ramps: Sequence[Ramp], width: float, image: str) -> Svg:
    narrow = width < 500
    left, right, top = 76.0, width - (16 if narrow else 190), 40.0
    bottom = top + 260
    svg = Svg(width, bottom + 46 + (len(ramps) * 22 if narrow else 0), _ramp_alt(ramps, image), "kth")
    most = max(count for ramp in ramps for count, _ in ramp.points)
    x = scales.linear_scale(most * 1.04, left, right)
    y = scales.log_scale([took for ramp in ramps for _, took in ramp.points], bottom, top)
    y_axis(svg, y, scales.DURATION, left, right, "start of the k-th")
    x_axis(svg, x, COUNT, top, bottom, "k, instances running with it")
    for index, ramp in enumerate(ramps):
        middle = ramp.medians()
        svg.polyline([(x(count), y(took)) for count, took in middle], f"curve {ramp.css}")
        for count, took in ramp.points:
            tip = f"{ramp.label}, k = {count:.0f}: {units.seconds(took)}"
            svg.circle(x(count), y(took), 3.5, f"run {ramp.css}", tip)
        words = f"{ramp.label}  {units.seconds(middle[-1][1])}"
        if narrow:
            svg.text(4, bottom + 62 + index * 22, words, f"label {ramp.css}")
        else:
            svg.text(right + 12, y(middle[-1][1]) + 4, words, f"label {ramp.css}")
    return svg


def _ramp_alt(ramps: Sequence[Ramp], image: str) -> str:
    told = "; ".join(
        f"{ramp.label} from {units.seconds(ramp.medians()[0][1])} to {units.seconds(ramp.medians()[-1][1])}"
        for ramp in ramps
    )
    return f"Start of the k-th idle instance of {image} over k, log time axis: {told}."


def _ramp_table(ramps: Sequence[Ramp]) -> Table:
    rows = [
        (ramp.label, f"{count:.0f}", units.seconds(took), str(sum(one == count for one, _ in ramp.points)))
        for ramp in ramps
        for count, took in ramp.medians()
    ]
    return Table(("target", "k", "median start", "readings"), tuple(rows))


@dataclass(frozen=True)
class Capacity:
    """How many instances were there at most, and how many the slope says would fit, with its interval."""

    label: str
    css: str
    measured: float
    estimate: float
    low: float
    high: float


def capacity_figure(group: Group) -> Figure | None:
    """One bar a target: solid as far as it was measured, hatched as far as the slope carries."""
    memory = _host_memory_bytes(group)
    rows = [_capacity(line, memory) for line in slopes(group) if line.bytes_per_instance.low > 0]
    if not memory or not rows:
        return None
    caption = (
        f"Idle instances of {group.subject} that {units.size(memory)} of memory would hold, "
        f"{KEPT_SHARE:.0%} kept for the host: memory over the measured slope. Solid as far as it was "
        "measured, hatched where extrapolated; the line is the slope's 95 % interval, "
        f"n = {_readings(group)} readings a target. Other limits (process numbers, bridge ports, start "
        "times) may come first."
    )
    return figure(
        f"density-{group.slug}",
        f"How many would fit: {group.subject}",
        caption,
        lambda width: _draw_capacity(rows, width, group.subject),
        _capacity_table(rows),
        any(series.emulated for series in group.series),
    )


def _host_memory_bytes(group: Group) -> float:
    hosts = (sample.host for series in group.series for sample in series.good())
    return next((float(host["memory_bytes"]) for host in hosts if host.get("memory_bytes")), 0.0)


def _readings(group: Group) -> str:
    counts = sorted({len(line.points) for line in slopes(group)})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _capacity(line: Slope, memory_bytes: float) -> Capacity:
    room, each = memory_bytes * (1 - KEPT_SHARE), line.bytes_per_instance
    fits = [math.floor(room / one) for one in (each.estimate, each.high, each.low)]
    return Capacity(line.label, line.css, line.points[-1][0], *fits)


def _draw_capacity(rows: Sequence[Capacity], width: float, image: str) -> Svg:
    narrow = width < 500
    gutter = 14.0 if narrow else 24 + max(text_width(row.label) for row in rows)
    pitch = ROW + (18 if narrow else 0)
    bottom = 10 + len(rows) * pitch
    svg = Svg(width, bottom + 46, _capacity_alt(rows, image), "density")
    x = scales.log_scale([1.0, *(row.high for row in rows)], gutter, width - (84 if narrow else 120))
    x_axis(svg, x, INSTANCES, 10, bottom, "idle instances")
    for index, row in enumerate(rows):
        y = 10 + index * pitch + (24 if narrow else 8)
        if narrow:
            svg.text(x.start_px, y - 7, row.label, f"label {row.css}")
        else:
            svg.text(x.start_px - 14, y + 19, row.label, f"label {row.css}", "end")
        svg.rect(x.start_px, y, x(row.measured) - x.start_px, 28, f"phase {row.css}")
        svg.hatched(x(row.measured), y, x(row.estimate) - x(row.measured), 28, row.css)
        svg.line(x(row.low), y + 14, x(row.high), y + 14, f"whisker thin {row.css}")
        svg.text(x(row.high) + 12, y + 19, f"{row.estimate:,.0f}", "value")
    return svg


def _capacity_alt(rows: Sequence[Capacity], image: str) -> str:
    told = "; ".join(f"{row.label} about {row.estimate:,.0f}" for row in rows)
    return f"Idle instances of {image} that the host's memory would hold, extrapolated, log axis: {told}."


def _capacity_table(rows: Sequence[Capacity]) -> Table:
    head = ("target", "measured up to", "would fit (extrapolated)", "95 % interval")
    body = tuple(
        (
            row.label,
            f"{row.measured:.0f}",
            f"{row.estimate:,.0f}",
            f"{row.low:,.0f} to {row.high:,.0f}",
        )
        for row in rows
    )
    return Table(head, body)
