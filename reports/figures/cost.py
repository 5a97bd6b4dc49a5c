"""The answer in one picture: how many times as much as a container, for start-up, memory and disk on one
axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.core.stats import Interval
from reports import scales, units
from reports.figures.figure import Figure, Table, figure, x_axis
from reports.svg import Svg, text_width


@dataclass(frozen=True)
class Cost:
    """One comparison: what, the container's and the other's value in words, and the ratio."""

    subject: str
    interval: str
    target: str
    css: str
    container: str
    other: str
    ratio: Interval
    pairs: int
    emulated: bool


def cost_figure(costs: Sequence[Cost], base_css: str) -> Figure | None:
    """The dumbbells of all comparisons, the container at 1."""
    if not costs:
        return None
    pairs = sorted({cost.pairs for cost in costs})
    n = str(pairs[0]) if len(pairs) == 1 else f"{pairs[0]} to {pairs[-1]}"
    caption = (
        f"Ratio of the machine to the container of the same image, paired within blocks; n = {n} pairs a "
        "row, "
        "whiskers are 95 % bootstrap intervals of the ratio. Values are medians."
    )
    return figure(
        "answer",
        "How many times as much as the container",
        caption,
        lambda width: _draw(costs, base_css, width),
        _table(costs),
        any(cost.emulated for cost in costs),
    )


def _draw(costs: Sequence[Cost], base_css: str, width: float) -> Svg:
    narrow = width < 500
    gutter = 40.0 if narrow else 40 + max(text_width(cost.subject, 16) for cost in costs)
    pitch = 84.0 if narrow else 62.0
    top, bottom = 6.0, 6.0 + len(costs) * pitch
    svg = Svg(width, bottom + 46, _alt(costs), "cost")
    # Two pairs bound nothing: the ends are NaN then, and the estimate alone has to be on the axis.
    reach = [value for cost in costs for value in cost.ratio if value == value]
    x = scales.log_scale([1.0, *reach], gutter, width - (74 if narrow else 96))
    x_axis(svg, x, scales.RATIO, top, bottom, "times the container")
    svg.line(x(1), top, x(1), bottom, "axis")
    for index, cost in enumerate(costs):
        y = top + index * pitch + (52 if narrow else pitch / 2 + 2)
        _dumbbell(svg, cost, base_css, x, y, narrow)
    return svg


def _dumbbell(svg: Svg, cost: Cost, base_css: str, x: scales.Scale, y: float, narrow: bool) -> None:
    one, at = x(1), x(cost.ratio.estimate)
    if narrow:
        svg.text(2, y - 34, cost.subject, "subject")
    else:
        svg.text(x.start_px - 28, y - 2, cost.subject, "subject", "end")
        svg.text(x.start_px - 28, y + 14, cost.interval, "note", "end")
    svg.line(one, y, at, y, f"dumbbell {cost.css}")
    if cost.ratio.low == cost.ratio.low:  # not NaN: bounded
        svg.line(x(cost.ratio.low), y, x(cost.ratio.high), y, f"whisker {cost.css}")
    svg.circle(one, y, 7, f"dot {base_css}")
    svg.circle(at, y, 9, f"dot {cost.css}")
    _ends(svg, cost, one, at, y)
    svg.text(
        max(at, one, x(cost.ratio.high) if cost.ratio.high == cost.ratio.high else 0) + 18,
        y + 7,
        units.times(cost.ratio.estimate),
        f"big {cost.css}",
    )


def _ends(svg: Svg, cost: Cost, one: float, at: float, y: float) -> None:
    """The two values above their dots; where dots stand close, the values move apart."""
    near = abs(at - one) < text_width(cost.container) / 2 + text_width(cost.other) / 2 + 10
    if not near:
        svg.text(one, y - 14, cost.container, "value", "middle")
        svg.text(at, y - 14, cost.other, "value", "middle")
    else:
        svg.text(min(one, at) - 10, y - 14, f"{cost.container} | {cost.other}", "value")


def _alt(costs: Sequence[Cost]) -> str:
    told = [
        f"{cost.subject}: container {cost.container}, {cost.target} {cost.other}, "
        f"{units.times(cost.ratio.estimate)}"
        for cost in costs
    ]
    return f"Cost of a machine as a multiple of the container, log axis. {'; '.join(told)}."


def _table(costs: Sequence[Cost]) -> Table:
    head = ("what", "interval", "container", "machine", "ratio", "95 % interval", "pairs")
    return Table(head, tuple(_row(cost) for cost in costs))


def _row(cost: Cost) -> tuple[str, ...]:
    bounded = cost.ratio.low == cost.ratio.low
    interval = f"{units.times(cost.ratio.low)} to {units.times(cost.ratio.high)}" if bounded else "–"
    ratio = units.times(cost.ratio.estimate)
    return (
        cost.subject,
        cost.interval,
        cost.container,
        cost.other,
        ratio,
        interval,
        str(cost.pairs),
    )
