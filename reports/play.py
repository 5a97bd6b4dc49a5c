"""What moves: the end point of a start, and the number of instances. Tables first; a slider only points into
them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bench.core.sample import Sample
from reports import units
from reports.figures.slope import Slope, slopes
from reports.gathered import START_MODES, Group, groups, times_s
from reports.phases import EDGE_WORDS
from reports.sections import Part, Section

COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


@dataclass(frozen=True)
class Step:
    """One place of a slider: its name, the two values, their ratio in words, and whether it is
    extrapolated."""

    name: str
    first: str
    second: str
    ratio: str
    extrapolated: bool = False


@dataclass(frozen=True)
class Slider:
    """A table of steps that a slider runs through."""

    id: str
    title: str
    label: str
    columns: tuple[str, str]
    column_css: tuple[str, str]
    steps: tuple[Step, ...]
    note: str


def play_section(samples: Sequence[Sample]) -> Section | None:
    """The chapter of all sliders that these samples allow."""
    made = [_end_points(group) for group in groups(samples, START_MODES)]
    made += [_instances(group) for group in groups(samples, ["memory"])]
    sliders = [slider for slider in made if slider]
    if not sliders:
        return None
    words = (
        "The same runs, told by another definition. Move a slider and watch the ratio: two people can both "
        "measure "
        "correctly and publish numbers that differ by a factor of ten.",
    )
    parts = tuple(Part("slider", slider) for slider in sliders)
    return Section("play", "Definitions", "Where does a start end?", words, parts)


def _end_points(group: Group) -> Slider | None:
    """Machine over container for each edge that both, or the machine alone, passed."""
    machine, container = group.find("vm"), group.find("ct")
    if not machine or not container:
        return None
    steps = []
    for edge in ("t2", "t3", "t4", "t5", "t6", "t7", "t8", "t9"):
        above, below = (_median(times_s(series.good(), "t0", edge)) for series in (machine, container))
        if above is None:
            continue
        ratio = units.times(above / below) if below else "no such edge"
        name = f"{edge}: {EDGE_WORDS[edge]}"
        steps.append(Step(name, units.seconds(above), units.seconds(below) if below else "–", ratio))
    if len(steps) < 2:
        return None
    return Slider(
        f"end-{group.slug}",
        f"The end point: {group.image}, {group.mode} mode",
        "end of the interval that begins at t0",
        (machine.label, container.label),
        (machine.css, container.css),
        tuple(steps),
        f"Medians from the request to each edge, n = {len(machine.good())} and {len(container.good())}.",
    )


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _instances(group: Group) -> Slider | None:
    """Memory of N instances from the measured slopes; beyond the largest measured N it is extrapolated."""
    lines = {line.target: line for line in slopes(group)}
    if not {"vm", "ct"} <= lines.keys():
        return None
    machine, container = lines["vm"], lines["ct"]
    most = min(machine.points[-1][0], container.points[-1][0])
    steps = tuple(_of_instances(machine, container, count, most) for count in COUNTS)
    return Slider(
        f"instances-{group.slug}",
        f"The number of instances: {group.image}, idle",
        "number of idle instances",
        (machine.label, container.label),
        (machine.css, container.css),
        steps,
        f"Measured slopes, N up to {most:.0f}; hatched rows are extrapolated, with the slope's 95 % "
        "interval.",
    )


def _of_instances(machine: Slope, container: Slope, count: int, most: float) -> Step:
    vm, ct = machine.bytes_per_instance, container.bytes_per_instance
    beyond = count > most
    told = [
        f"{units.size(count * one.estimate)}"
        + (f" ({units.size(count * one.low)} to {units.size(count * one.high)})" if beyond else "")
        for one in (vm, ct)
    ]
    ratio = units.times(vm.estimate / ct.estimate) if ct.estimate > 0 else "–"
    return Step(f"{count} instances" if count > 1 else "1 instance", told[0], told[1], ratio, beyond)
