"""The forest plot of all claims: each effect with its interval, as a multiple of the bound that was
declared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reports import scales, units
from reports.figures.figure import Figure, Table, figure, x_axis
from reports.svg import Svg, text_width

ROW = 27.0


@dataclass(frozen=True)
class Effect:
    """One row: everything divided by the predicate's bound, so that all share an axis."""

    label: str
    told: str
    asked: str
    low: float
    middle: float
    high: float
    css: str
    side: str
    n: int
    published: tuple[float, ...]


def forest_figure(effects: Sequence[Effect]) -> Figure | None:
    """All effects on one log axis, the declared bounds at 1."""
    if not effects:
        return None
    counts = [effect.n for effect in effects]
    caption = (
        f"Effects with 95 % intervals, n = {min(counts)} to {max(counts)} samples or pairs, each divided by "
        "the bound "
        "that its predicate declared: the line at 1 is the bound, and a whole interval on one side of it "
        "decides. "
        "Hollow diamonds are published values of the same quantity, for shape and order only."
    )
    title = "Every measured effect against its declared bound"
    return figure("forest", title, caption, lambda width: _draw(effects, width), _table(effects))


def _draw(effects: Sequence[Effect], width: float) -> Svg:
    narrow = width < 500
    gutter = 12.0 if narrow else 24 + max(text_width(effect.label) for effect in effects)
    room = 16.0 if narrow else 24 + max(text_width(_words(effect)) for effect in effects)
    pitch = ROW + (20 if narrow else 0)
    bottom = 8 + len(effects) * pitch
    svg = Svg(width, bottom + 46, _alt(effects), "forest")
    reach = [value for one in effects for value in (one.low, one.high, *one.published)]
    x = scales.log_scale([1.0, *reach], gutter, width - room)
    x_axis(svg, x, scales.RATIO, 8, bottom, "effect / declared bound")
    svg.line(x(1), 8, x(1), bottom, "bound")
    for index, one in enumerate(effects):
        y = 8 + index * pitch + pitch / 2 + (9 if narrow else 0)
        _row(svg, one, x, y, narrow)
    return svg


def _row(svg: Svg, one: Effect, x: scales.Scale, y: float, narrow: bool) -> None:
    if narrow:
        svg.text(2, y - 11, f"{one.label}  {one.told}", "legend")
    else:
        svg.text(x.start_px - 14, y + 4, one.label, "legend", "end")
        svg.text(x.end_px + 14, y + 4, _words(one), "legend")
    svg.line(x(one.low), y, x(one.high), y, f"whisker thin {one.css}")
    svg.circle(x(one.middle), y, 5, f"dot {one.css}", f"{one.label}: {one.told}, {one.side}")
    for value in one.published:
        svg.path(f"M{x(value):.1f} {y - 6}l6 6l-6 6l-6 -6z", "hollow published")


def _words(one: Effect) -> str:
    return f"{one.told}, {one.side}"


def _alt(effects: Sequence[Effect]) -> str:
    sides = [effect.side for effect in effects]
    told = ", ".join(f"{sides.count(side)} {side}" for side in dict.fromkeys(sides))
    return f"{len(effects)} measured effects as multiples of their declared bounds, log axis: {told}."


def _table(effects: Sequence[Effect]) -> Table:
    head = ("claim", "effect", "asked", "effect / bound", "95 % interval", "n", "outcome")
    rows = [
        (
            one.label,
            one.told,
            one.asked,
            units.times(one.middle),
            f"{units.times(one.low)} to {units.times(one.high)}",
            str(one.n),
            one.side,
        )
        for one in effects
    ]
    return Table(head, tuple(rows))
