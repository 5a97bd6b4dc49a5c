"""Memory that N idle instances take from the host, and the slope: what one more costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.core.stats import Interval, slope_interval
from reports import scales, units
from reports.figures.figure import Figure, Table, figure, x_axis, y_axis
from reports.gathered import Group, Series
from reports.svg import Svg

COUNT = scales.Quantity("instances", lambda value: f"{value:.0f}", ())


@dataclass(frozen=True)
class Slope:
    """One target's points and the line through them."""

    label: str
    css: str
    target: str
    points: tuple[tuple[float, float], ...]
    bytes_per_instance: Interval


def slopes(group: Group) -> list[Slope]:
    """The series with at least two different N."""
    return [slope for series in group.series if (slope := _slope(series))]


def _slope(series: Series) -> Slope | None:
    wanted = ("instances", "mem_available_drop_bytes")
    read = [
        tuple(float(s.values[name]) for name in wanted)
        for s in series.good()
        if all(n in s.values for n in wanted)
    ]
    points = tuple(sorted((count, drop) for count, drop in read))
    if len({count for count, _ in points}) < 2:
        return None
    slope = slope_interval([count for count, _ in points], [drop for _, drop in points])
    return Slope(series.label, series.css, series.target, points, slope)


def slope_figure(group: Group) -> Figure | None:
    """The lines of all targets over N, on one linear axis."""
    lines = slopes(group)
    if not lines:
        return None
    runs = sorted({len(line.points) for line in lines})
    n = str(runs[0]) if len(runs) == 1 else f"{runs[0]} to {runs[-1]}"
    most = max(count for line in lines for count, _ in line.points)
    caption = (
        f"Drop of the host's MemAvailable with N idle instances of {group.subject} running, N up to "
        f"{most:.0f}, "
        f"n = {n} readings a target. The slope is what one more instance costs, shared pages and kernel "
        "memory "
        "counted once; 95 % intervals (Student) in the table."
    )
    title = f"What one more instance takes: {group.subject}"
    return figure(
        f"slope-{group.slug}", title, caption, lambda width: _draw(lines, width, group.subject), _table(lines)
    )


def _draw(lines: Sequence[Slope], width: float, image: str) -> Svg:
    narrow = width < 500
    left, right, top, bottom = 76.0, width - (16 if narrow else 230), 40.0, 320.0
    most = max(count for line in lines for count, _ in line.points)
    reach = max(drop for line in lines for _, drop in line.points)
    x = scales.linear_scale(most * 1.02, left, right)
    y = scales.linear_scale(reach * 1.06, bottom, top)
    svg = Svg(width, bottom + 46 + (len(lines) * 22 if narrow else 0), _alt(lines, image), "slope")
    y_axis(svg, y, binary(reach), left, right, "memory taken from the host")
    x_axis(svg, x, COUNT, top, bottom, "idle instances, N")
    for index, line in enumerate(lines):
        _line(svg, line, x, y)
        words = _words(line)
        if narrow:
            svg.text(4, bottom + 62 + index * 22, words, f"label {line.css}")
    if not narrow:
        _end_labels(svg, lines, x, y, right + 14)
    return svg


def _line(svg: Svg, line: Slope, x: scales.Scale, y: scales.Scale) -> None:
    low, high = line.points[0][0], line.points[-1][0]
    at = _fitted(line)
    svg.add("line", f"curve {line.css}", x1=x(low), y1=y(max(at(low), 0)), x2=x(high), y2=y(max(at(high), 0)))
    for count, drop in line.points:
        svg.circle(
            x(count),
            y(max(drop, 0)),
            4,
            f"run {line.css}",
            f"{line.label}, N={count:.0f}: {units.size(drop)}",
        )


def _fitted(line: Slope) -> Callable[[float], float]:
    """The line with the estimated slope through the middle of the points."""
    middle = sum(count for count, _ in line.points) / len(line.points)
    height = sum(drop for _, drop in line.points) / len(line.points)
    return lambda count: height + (count - middle) * line.bytes_per_instance.estimate


def _end_labels(svg: Svg, lines: Sequence[Slope], x: scales.Scale, y: scales.Scale, left: float) -> None:
    """Labels at the lines' ends, pushed apart downwards from the top one."""
    free = 0.0
    for line in sorted(lines, key=lambda line: -_fitted(line)(line.points[-1][0])):
        wanted = y(max(_fitted(line)(line.points[-1][0]), 0)) + 4
        place = max(wanted, free)
        svg.text(
            left,
            place,
            _words(line),
            f"label {line.css}",
        )
        free = place + 20


def _words(line: Slope) -> str:
    """The slope, or that the host's own noise hides it."""
    slope = line.bytes_per_instance
    if not slope.low > 0:
        return f"{line.label}  below the noise"
    return f"{line.label}  {units.size(slope.estimate)} each"


def binary(reach: float) -> scales.Quantity:
    """Ticks in one unit throughout, the largest that the drawing fills at least three times."""
    power = next(power for power in (3, 2, 1, 0) if reach >= 3 * 1024.0**power or power == 0)
    unit, name = 1024.0**power, ("B", "KiB", "MiB", "GiB")[power]
    return scales.Quantity("size", lambda value: f"{value / unit:g} {name}" if value else "0", (), unit)


def _alt(lines: Sequence[Slope], image: str) -> str:
    told = "; ".join(
        f"{line.label} {units.size(line.bytes_per_instance.estimate)} an instance" for line in lines
    )
    return f"Memory taken from the host over the number of idle {image} instances: {told}."


def _table(lines: Sequence[Slope]) -> Table:
    head = ("target", "one more instance", "95 % interval", "readings", "largest N")
    rows = [
        (
            line.label,
            units.size(line.bytes_per_instance.estimate),
            f"{units.size(line.bytes_per_instance.low)} to {units.size(line.bytes_per_instance.high)}",
            str(len(line.points)),
            f"{line.points[-1][0]:.0f}",
        )
        for line in lines
    ]
    return Table(head, tuple(rows))
