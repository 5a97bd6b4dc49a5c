"""A figure as the page shows it, and the parts that figures share: axes, captions, labels that do not
collide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reports.scales import Quantity, Scale, linear_ticks, log_ticks
from reports.svg import Svg, text_width

WIDE, NARROW = 920.0, 344.0
Draw = Callable[[float], Svg]


@dataclass(frozen=True)
class Table:
    """A data table: head and rows of words; the first column names the row; `words` sets it ragged right."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: bool = False


@dataclass(frozen=True)
class Figure:
    """One figure: drawn for wide and for narrow pages, the same data in a table below."""

    id: str
    title: str
    caption: str
    wide: str
    narrow: str
    table: Table
    emulated: bool = False


def figure(id: str, title: str, caption: str, draw: Draw, table: Table, emulated: bool = False) -> Figure:
    """The figure drawn at both widths."""
    return Figure(id, title, caption, draw(WIDE).render(), draw(NARROW).render(), table, emulated)


def x_axis(svg: Svg, scale: Scale, quantity: Quantity, top: float, bottom: float, name: str) -> None:
    """Grid lines, ticks with units, and the axis' name below at the right; a log axis says that it is one."""
    ticks = _ticks(scale, quantity)
    for tick in ticks:
        svg.line(scale(tick), top, scale(tick), bottom, "grid")
        svg.text(scale(tick), bottom + 17, quantity.words(tick), "tick", "middle")
    svg.line(scale.start_px, bottom, scale.end_px, bottom, "axis")
    words = f"{name} (log scale)" if scale.log else name
    svg.text(scale.end_px, bottom + 36, words, "axis-name", "end")


def _ticks(scale: Scale, quantity: Quantity) -> list[float]:
    length = abs(scale.end_px - scale.start_px)
    if not scale.log:
        return linear_ticks(scale, int(length / 80), quantity.unit)
    return log_ticks(scale, quantity.log_places, gap_px=52)


def y_axis(svg: Svg, scale: Scale, quantity: Quantity, left: float, right: float, name: str) -> None:
    """Grid lines and ticks at the left, the name above them."""
    ticks = log_ticks(scale, quantity.log_places, 24) if scale.log else linear_ticks(scale, 5, quantity.unit)
    for tick in ticks:
        svg.line(left, scale(tick), right, scale(tick), "grid")
        svg.text(left - 8, scale(tick) + 4, quantity.words(tick), "tick", "end")
    svg.text(left - 8, scale.end_px - 16, f"{name} (log scale)" if scale.log else name, "axis-name")


@dataclass(frozen=True)
class Placed:
    """A label's place: where its text begins and on which row it stands."""

    x: float
    row: int


def stagger(labels: Sequence[tuple[float, str]], left: float, right: float, gap: float = 14) -> list[Placed]:
    """Rows for labels that want to be centred on x, so that none overlaps another and none leaves the
    drawing."""
    ends: list[float] = []
    placed: dict[int, Placed] = {}
    for index in sorted(range(len(labels)), key=lambda index: labels[index][0]):
        wanted, words = labels[index]
        width = text_width(words)
        x = min(max(wanted - width / 2, left), max(right - width, left))
        row = next((row for row, end in enumerate(ends) if end + gap <= x), len(ends))
        ends[row : row + 1] = [x + width]
        placed[index] = Placed(x, row)
    return [placed[index] for index in range(len(labels))]


def wrap(words: str, width: float, size: float = 13) -> list[str]:
    """Lines that fit a width."""
    lines, line = [], ""
    for word in words.split():
        longer = f"{line} {word}".strip()
        if line and text_width(longer, size) > width:
            lines.append(line)
            longer = word
        line = longer
    return [*lines, line] if line else lines
