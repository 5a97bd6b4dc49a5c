"""What moves: the end point of a start, a cold or a warm cache, and the number of instances. Tables first; a
control only points into them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from bench.core.sample import EDGES, Sample
from bench.core.stats import Interval
from reports import units
from reports.figures.slope import Slope, slopes
from reports.gathered import COLD, START_MODES, Group, Series, groups, interval_s, times_s
from reports.sections import Part, Section
from reports.summaries import paired_ratio

CACHES = ("warm: its files are in memory", "cold: they come from the disk")
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
    made = [_cold_or_warm(group) for group in starts if group.condition == COLD]
    made += [_end_points(group) for group in starts if not group.condition]
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
        paired = paired_ratio(machine, container, partial(interval_s, last=edge))
        ratio = units.times(paired.estimate) if paired else "no such edge"
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
        f"Medians from the request to each edge, n = {len(machine.good())} and {len(container.good())}; the "
        "ratio is taken within blocks, then its median, as in the tables.",
    )


def _cold_or_warm(cold: Group) -> Slider | None:
    """A start from an empty page cache, and the same start again right after it."""
    machine, container = cold.find("vm"), cold.find("ct")
    if not machine or not container:
        return None
    above, below = _warm_and_cold_s(machine), _warm_and_cold_s(container)
    if not above or not below:
        return None
    return Slider(
        f"cache-{cold.slug}",
        f"Cold or warm: {cold.image}, {cold.mode} mode",
        "page cache",
        (machine.label, container.label),
        (machine.css, container.css),
        tuple(_of_cache(name, place, above, below) for place, name in enumerate(CACHES)),
        f"Medians of t0 → t8, n = {len(above)} and {len(below)} starts of each kind, the warm one right "
        "after the cold one. Cold: all caches of the host were dropped before; its disk may have its own.",
    )


def _warm_and_cold_s(series: Series) -> list[tuple[float, float]]:
    """Both times of each run that has them."""
    found = ((sample.values.get("warm_start_s"), interval_s(sample)) for sample in series.good())
    return [(float(warm_s), cold_s) for warm_s, cold_s in found if warm_s and cold_s]


def _of_cache(
    name: str, place: int, above: Sequence[tuple[float, float]], below: Sequence[tuple[float, float]]
) -> Step:
    machine_s, container_s = (statistics.median(pair[place] for pair in each) for each in (above, below))
    return Step(
        name, units.seconds(machine_s), units.seconds(container_s), units.times(machine_s / container_s)
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
