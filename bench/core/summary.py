"""Samples to rows: what is told of each cell. Pure; warm-ups left out, failures counted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bench.core import stats
from bench.core.sample import Sample, times_s
from bench.core.stats import Interval

STARTS = ("command", "boot")


class Row(NamedTuple):
    """One number of one target: its median, how many runs it stands on, and its ratio to the base target."""

    group: str
    mode: str
    target: str
    accelerator: str | None
    what: str
    n: int
    bad: int
    median: Interval
    ratio: Interval | None
    base: str | None
    why: str = ""
    way: str | None = None


def rows(samples: Sequence[Sample], base: str = "ct") -> list[Row]:
    """All rows, group by group in the order of the file; `base` is what ratios stand on, where it was run."""
    groups: dict[str, dict[str, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    for one in samples:
        groups[one.cell.removesuffix(f"/{one.target}")][one.target].append(one)
    made: list[Row] = []
    for group, by_target in groups.items():
        names = _named(by_target)
        ordered = _by_size(by_target, names[0])
        for what in names:
            made += _rows(group, what, ordered, base)
    return made


def starts(samples: Iterable[Sample], cell: str) -> dict[int, float]:
    """Block -> seconds of the start of a cell, the median where a block has a batch."""
    return values(samples, cell, "start_s")


def values(samples: Iterable[Sample], cell: str, what: str) -> dict[int, float]:
    """Block -> a value of a cell, the median where a block has several."""
    return _values([one for one in samples if one.cell == cell], what)


def _by_size(by_target: dict[str, list[Sample]], what: str) -> dict[str, list[Sample]]:
    """Targets from the smallest median up; those without a good run last."""

    def size(target: str) -> float:
        values = _values(by_target[target], what)
        return _median(list(values.values())) if values else float("inf")

    return {target: by_target[target] for target in sorted(by_target, key=size)}


def _named(by_target: dict[str, list[Sample]]) -> list[str]:
    """The numbers of a group: its start for starts, else every value that any target has."""
    everyone = [one for found in by_target.values() for one in found]
    names = dict.fromkeys(name for one in everyone for name in one.values)
    if any(name == "mem_available_drop_bytes" for name in names):
        return ["slope_bytes"]
    names.pop("instances", None)  # a ramp's steps: what the other numbers stand over
    starts = ["start_s"] if everyone[0].mode in STARTS else []
    return starts + list(names) or ["start_s"]


def _rows(group: str, what: str, by_target: dict[str, list[Sample]], base: str) -> list[Row]:
    base = base if base in by_target and _values(by_target[base], what) else ""
    made = []
    for target, found in by_target.items():
        values = _values(found, what)
        good = [one for one in found if one.status == "ok" and not one.warmup]
        count = sum(_has(one, what) for one in good)
        if good and not count:
            continue  # it works, and has no such number
        bad = [one for one in found if one.status != "ok"]
        is_slope = what == "slope_bytes"
        middle = _slope(found) if is_slope else stats.median_interval(list(values.values()))
        ratio = None
        if base and target != base and values and what != "slope_bytes":
            shared = [(values[block], other) for block, other in _values(by_target[base], what).items()
                      if block in values]  # fmt: skip
            ratio = stats.ratio_interval(shared)
        accelerator = next((one.accelerator for one in found if one.accelerator), None)
        why = next((one.error for one in reversed(found) if one.error), None) or ""
        ways = {one.way for one in found if one.way}
        made.append(
            Row(
                group,
                found[0].mode,
                target,
                accelerator,
                what,
                count,
                len(bad),
                middle,
                ratio,
                base or None,
                why,
                " and ".join(sorted(ways)) or None,
            )
        )
    return made


def _values(samples: Iterable[Sample], what: str) -> dict[int, float]:
    """Block -> value (the median where a block has several)."""
    blocks: dict[int, list[float]] = defaultdict(list)
    for one in samples:
        found = times_s([one]) if what == "start_s" else _value(one, what)
        blocks[one.block] += found
    return {block: _median(found) for block, found in blocks.items() if found}


def _has(one: Sample, what: str) -> bool:
    return bool(times_s([one]) if what == "start_s" else _value(one, what))


def _value(one: Sample, what: str) -> list[float]:
    ok = one.status == "ok" and not one.warmup
    if what == "slope_bytes":
        what = "mem_available_drop_bytes"
    return [float(one.values[what])] if ok and what in one.values else []


def _median(values: Sequence[float]) -> float:
    import statistics

    return statistics.median(values)


def _slope(samples: Iterable[Sample]) -> Interval:
    points = [
        (one.values["instances"], one.values["mem_available_drop_bytes"])
        for one in samples
        if one.status == "ok" and not one.warmup and "instances" in one.values
    ]
    return stats.theil_sen([x for x, _ in points], [y for _, y in points]).slope
