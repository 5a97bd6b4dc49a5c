"""What moves: the end point of a start, a cold or a warm cache, and the number of instances. Tables first; a
control only points into them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bench.core.sample import EDGES, Sample
from bench.core.stats import Interval
from reports import units
from reports.figures.slope import Slope, slopes
from reports.gathered import COLD, START_MODES, Group, groups, times_s
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
    starts = groups(samples, START_MODES)
    made = [_cold_or_warm(group, starts) for group in starts if group.condition == COLD]
    made += [_end_points(group) for group in starts]
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
        name = f"{edge}: {EDGES[edge]}"
        steps.append(Step(name, units.seconds(above), units.seconds(below) if below else "–", ratio))
    if len(steps) < 2:
        return None
    return Slider(
        f"end-{group.slug}",
        f"The end point: {group.subject}, {group.mode} mode",
        "end of the interval that begins at t0",
        (machine.label, container.label),
        (machine.css, container.css),
        tuple(steps),
        f"Medians from the request to each edge, n = {len(machine.good())} and {len(container.good())}.",
    )


def _cold_or_warm(cold: Group, starts: Sequence[Group]) -> Slider | None:
    """The same start with its files in the page cache and with an empty one."""
    same = (one for one in starts if (one.mode, one.image) == (cold.mode, cold.image) and not one.condition)
    warm = next(same, cold)
    machine, container = cold.find("vm"), cold.find("ct")
    found = [_of_cache("warm: the files are in memory", warm), _of_cache("cold: they come from disk", cold)]
    steps = tuple(step for step in found if step)
    if warm is cold or len(steps) < 2 or not machine or not container:
        return None
    runs = sorted(
        len(one.good()) for group in (warm, cold) for one in (group.find("vm"), group.find("ct")) if one
    )
    return Slider(
        f"cache-{warm.slug}",
        f"Cold or warm: {warm.image}, {warm.mode} mode",
        "page cache",
        (machine.label, container.label),
        (machine.css, container.css),
        steps,
        f"Medians of t0 → t8, n = {runs[0]} to {runs[-1]}. Cold: all caches were dropped before each "
        "start, so image, programs and libraries came from the disk.",
    )


def _of_cache(name: str, group: Group) -> Step | None:
    series = [group.find(target) for target in ("vm", "ct")]
    above, below = (_median(times_s(one.good())) if one else None for one in series)
    if above is None or below is None:
        return None
    return Step(name, units.seconds(above), units.seconds(below), units.times(above / below))


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
        f"The number of instances: {group.subject}, idle",
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
    told = [_taken(one, count, beyond) for one in (vm, ct)]
    ratio = units.times(vm.estimate / ct.estimate) if vm.low > 0 and ct.low > 0 else "–"
    return Step(f"{count} instances" if count > 1 else "1 instance", told[0], told[1], ratio, beyond)


def _taken(each: Interval, count: int, beyond: bool) -> str:
    """What `count` instances take; nothing where the host's own noise hides what one does."""
    if not each.low > 0:
        return "below the noise"
    spread = f" ({units.size(count * each.low)} to {units.size(count * each.high)})" if beyond else ""
    return f"{units.size(count * each.estimate)}{spread}"
