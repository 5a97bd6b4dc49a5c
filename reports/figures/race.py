"""A race as an animation: all lanes leave at once, at true speed or slowed and quickened alike; no
JavaScript."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reports import palette, scales, units
from reports.figures.figure import Figure, Table, figure, x_axis
from reports.gathered import Group
from reports.phases import PHASE_WORDS
from reports.svg import Svg, text_width

LANE, BAR = 44.0, 26.0
LONGEST_S, SHORTEST_S = 12.0, 3.0


@dataclass(frozen=True)
class Lane:
    """One run: whose, and its edges in seconds from the request, t8 among them."""

    label: str
    target: str
    edges_s: tuple[tuple[str, float], ...]

    @property
    def reply_s(self) -> float:
        return dict(self.edges_s)["t8"]


def lane(label: str, target: str, edges_ns: dict[str, int]) -> Lane | None:
    """The lane of one start; None for a run that never replied."""
    if edges_ns.get("t8", 0) <= 0:
        return None
    passed = sorted((at, edge) for edge, at in edges_ns.items() if edge != "t0" and at <= edges_ns["t8"])
    return Lane(label, target, tuple((edge, at / 1e9) for at, edge in passed))


def lanes_of(group: Group) -> list[Lane]:
    """Of each target the run whose time lies in the middle."""
    made = []
    for series in group.series:
        runs = sorted(
            (one for one in series.good() if "t8" in one.edges_ns), key=lambda one: one.edges_ns["t8"]
        )
        if runs and (found := lane(series.label, series.target, dict(runs[len(runs) // 2].edges_ns))):
            made.append(found)
    return sorted(made, key=lambda one: one.reply_s)


def race_figure(group: Group) -> Figure | None:
    """The replay of one group's middle runs."""
    lanes = lanes_of(group)
    if len(lanes) < 2:
        return None
    runs = max(len(series.good()) for series in group.series)
    caption = (
        f"The middle run of each target (of n = {runs} at most), all leaving at once, {speed_words(lanes)}. "
        "They were measured one at a time: run together they would slow each other."
    )
    return figure(
        f"race-{group.slug}",
        f"The race: {group.subject}, {group.mode} mode",
        caption,
        lambda width: draw(lanes, width),
        Table(("target", "first reply"), tuple((one.label, units.seconds(one.reply_s)) for one in lanes)),
        any(series.emulated for series in group.series),
    )


def slowdown(lanes: Sequence[Lane]) -> float:
    """Seconds of film for a second of the race: the film lasts three to twelve seconds."""
    longest = max(one.reply_s for one in lanes)
    return min(max(longest, SHORTEST_S), LONGEST_S) / longest


def speed_words(lanes: Sequence[Lane]) -> str:
    """How the film's speed is told."""
    factor = slowdown(lanes)
    if factor == 1:
        return "at true speed"
    by = units.significant(factor if factor > 1 else 1 / factor, 2)
    return f"{by} times {'slower' if factor > 1 else 'faster'} than it was"


def draw(lanes: Sequence[Lane], width: float) -> Svg:
    """Bars that grow phase by phase; where motion is not wanted, or not known, the finished race."""
    narrow = width < 500
    gutter = 10.0 if narrow else 24 + max(text_width(one.label) for one in lanes)
    pitch = LANE + (14 if narrow else 0)
    bottom = 8 + len(lanes) * pitch
    svg = Svg(width, bottom + 46, _alt(lanes), "race")
    x = scales.linear_scale(max(one.reply_s for one in lanes), gutter, width - 80)
    clock = scales.Quantity("time", lambda value: units.seconds(value, 2) if value else "0", ())
    x_axis(svg, x, clock, 8, bottom, "time from request")
    factor = slowdown(lanes)
    for index, one in enumerate(lanes):
        y = 8 + index * pitch + (24 if narrow else 9)
        css = f"ink-{palette.ink(one.target).css}"
        if narrow:
            svg.text(x.start_px, y - 6, one.label, f"label {css}")
        else:
            svg.text(x.start_px - 12, y + BAR / 2 + 4, one.label, f"label {css}", "end")
        _run(svg, one, x, y, factor)
    return svg


def _run(svg: Svg, one: Lane, x: scales.Scale, y: float, factor: float) -> None:
    began = 0.0
    for edge, at in one.edges_s:
        css = f"phase grow ink-{palette.PHASES[edge].css}"
        timing = (
            f"animation-delay:{began * factor:.3f}s;animation-duration:{max(at - began, 1e-3) * factor:.3f}s"
        )
        wide = max(x(at) - x(began), 0.5)
        svg.add("rect", css, x=x(began), y=y, width=wide, height=BAR, style=timing)
        began = at
    svg.add_text(
        x(one.reply_s) + 8, y + BAR / 2 + 4, units.seconds(one.reply_s), "value appear",
        f"animation-delay:{one.reply_s * factor:.3f}s",
    )  # fmt: skip


def _alt(lanes: Sequence[Lane]) -> str:
    told = ", ".join(f"{one.label} after {units.seconds(one.reply_s)}" for one in lanes)
    phases = ", ".join(PHASE_WORDS[edge] for edge, _ in lanes[-1].edges_s)
    return f"Race of starts, in the order of arrival: {told}. Phases of the last: {phases}."
