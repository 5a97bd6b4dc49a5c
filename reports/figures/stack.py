"""Memory of N idle instances, stacked by kind: what the processes hold, and what only the host's total
shows."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from bench.core.sample import Sample
from reports import scales, units
from reports.figures.figure import Figure, Table, figure, y_axis
from reports.figures.slope import binary
from reports.gathered import Group, Series
from reports.svg import Svg, text_width

DROP = "mem_available_drop_bytes"
REST = "kernel, daemons and the rest"
# Value in the samples -> words; the class of each is kind-0, kind-1 ...
KINDS = {
    "all_pss_anon_bytes": "anonymous",
    "all_pss_shmem_bytes": "shared memory",
    "all_pss_file_bytes": "mapped files",
}
WORDS = (*KINDS.values(), REST)
PANEL_HEIGHT = 220.0


@dataclass(frozen=True)
class Stack:
    """Bytes by kind at one N, in the order of WORDS."""

    count: float
    sizes: tuple[float, ...]

    @property
    def total(self) -> float:
        return sum(self.sizes)


@dataclass(frozen=True)
class Panel:
    """One target's stacks over N."""

    label: str
    css: str
    stacks: tuple[Stack, ...]
    readings: int


def stack_figure(group: Group) -> Figure | None:
    """One panel a target, each on its own axis: a machine's stack would hide every container's."""
    panels = [panel for series in group.series if (panel := _panel(series))]
    if not panels:
        return None
    readings = sorted({panel.readings for panel in panels})
    n = str(readings[0]) if len(readings) == 1 else f"{readings[0]} to {readings[-1]}"
    caption = (
        f"N idle instances of {group.subject}, medians, n = {n} readings at each N. The first three kinds "
        "are the PSS of all their host processes; the last is what the host's MemAvailable dropped beyond "
        "that: page tables, kernel objects, daemons. Each panel has an axis of its own. A guest's memory is "
        "anonymous or shared memory to its host, whatever it is to the guest."
    )
    return figure(
        f"stack-{group.slug}",
        f"What N instances hold, by kind: {group.subject}",
        caption,
        lambda width: _draw(panels, width, group.subject),
        _table(panels),
        any(series.emulated for series in group.series),
    )


def _panel(series: Series) -> Panel | None:
    found: dict[float, list[Sample]] = defaultdict(list)
    for one in series.good():
        if {"instances", DROP, *KINDS} <= one.values.keys():
            found[float(one.values["instances"])].append(one)
    if len(found) < 2:
        return None
    stacks = tuple(_stack(count, samples) for count, samples in sorted(found.items()))
    return Panel(series.label, series.css, stacks, min(map(len, found.values())))


def _stack(count: float, samples: Sequence[Sample]) -> Stack:
    sizes = [statistics.median(float(one.values[name]) for one in samples) for name in KINDS]
    drop = statistics.median(float(one.values[DROP]) for one in samples)
    return Stack(count, (*sizes, max(drop - sum(sizes), 0.0)))


def _draw(panels: Sequence[Panel], width: float, image: str) -> Svg:
    columns = 1 if width < 500 else 2
    rows = -(-len(panels) // columns)
    legend = _legend_places(width)
    head = 16 + (legend[-1][1] + 1) * 22.0
    pitch = PANEL_HEIGHT + 112
    svg = Svg(width, head + rows * pitch, _alt(panels, image), "stack")
    for index, (words, (left, line)) in enumerate(zip(WORDS, legend, strict=True)):
        svg.rect(left, 4 + line * 22.0, 13, 13, f"kind-{index}", 2)
        svg.text(left + 20, 15 + line * 22.0, words, "legend")
    span = width / columns
    for index, panel in enumerate(panels):
        place = head + (index // columns) * pitch
        _draw_panel(svg, panel, (index % columns) * span, span, place + 44)
    return svg


def _draw_panel(svg: Svg, panel: Panel, left: float, width: float, top: float) -> None:
    start, end, bottom = left + 76, left + width - 24, top + PANEL_HEIGHT
    reach = max(stack.total for stack in panel.stacks)
    y = scales.linear_scale(reach * 1.1, bottom, top)
    x = scales.linear_scale(panel.stacks[-1].count + 0.7, start, end)
    svg.text(start, top - 26, panel.label, f"label {panel.css}")
    y_axis(svg, y, binary(reach), start, end, "")
    for stack in panel.stacks:
        svg.text(x(stack.count), bottom + 17, f"{stack.count:.0f}", "tick", "middle")
    svg.line(start, bottom, end, bottom, "axis")
    svg.text(end, bottom + 36, "idle instances, N", "axis-name", "end")
    half = min(17.0, (x(1) - x(0)) * 0.36)
    for stack in panel.stacks:
        floor = 0.0
        for kind, size in enumerate(stack.sizes):
            low, high = y(floor), y(floor + size)
            if low - high >= 0.4:
                svg.rect(x(stack.count) - half, high, 2 * half, max(low - high - 0.8, 0.4), f"kind-{kind}")
            floor += size
    last = panel.stacks[-1]
    svg.text(x(last.count), y(last.total) - 7, units.size(last.total), "value", "middle")


def _legend_places(width: float) -> list[tuple[float, int]]:
    places: list[tuple[float, int]] = []
    x, line = 0.0, 0
    for words in WORDS:
        need = text_width(words, 12.5) + 44
        if x and x + need > width:
            x, line = 0.0, line + 1
        places.append((x, line))
        x += need
    return places


def _alt(panels: Sequence[Panel], image: str) -> str:
    told = "; ".join(
        f"{panel.label} {units.size(panel.stacks[-1].total)} at N = {panel.stacks[-1].count:.0f}"
        for panel in panels
    )
    return f"Memory of N idle instances of {image}, stacked by kind: {told}."


def _table(panels: Sequence[Panel]) -> Table:
    rows = [
        (
            panel.label,
            f"{stack.count:.0f}",
            *(units.size(size) for size in stack.sizes),
            units.size(stack.total),
        )
        for panel in panels
        for stack in panel.stacks
    ]
    return Table(("target", "N", *WORDS, "together"), tuple(rows))
