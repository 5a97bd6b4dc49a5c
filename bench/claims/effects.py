"""Effects: chosen samples -> one estimate with its interval, or the reason why there is none."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.claims.register import Bound, Predicate, Where
from bench.core import stats
from bench.core.sample import Sample
from bench.core.stats import Interval

PAGE_BYTES = 4096.0
_EDGES = re.compile(r"(t\d)\.\.(t\d)")


@dataclass(frozen=True)
class Effect:
    """What the samples say to a predicate; `lacking` tells why there is no interval, `skipped` that this
    host has not got what it takes.
    """

    interval: Interval | None
    n: int
    accelerators: tuple[str, ...] = ()
    lacking: str = ""
    skipped: bool = False


def experiment_of(where: Where, claim_id: str) -> str:
    """The experiment's name in the samples: a claim's probe has its own."""
    return f"{claim_id}.{where.probe}" if where.probe else where.experiment


def chosen(samples: Sequence[Sample], where: Where, claim_id: str) -> list[Sample]:
    """All samples of a place, whatever became of them; warm-ups are never among them."""
    wanted = {
        "experiment": experiment_of(where, claim_id), "mode": "" if where.probe else where.mode,
        "image": where.image, "target": where.target, "accelerator": where.accelerator,
    }  # fmt: skip
    return [
        sample
        for sample in samples
        if not sample.warmup
        and all(getattr(sample, name) == value for name, value in wanted.items() if value)
    ]


def effect(predicate: Predicate, samples: Sequence[Sample], claim_id: str) -> Effect:
    """The predicate's effect. Samples of two accelerators or two hosts are never pooled."""
    places = [predicate.cell, *([predicate.base] if predicate.base else [])]
    tried = [chosen(samples, where, claim_id) for where in places]
    good = [
        [one for one in found if one.status == "ok" and _readings(one, predicate.value)] for found in tried
    ]
    accelerators = tuple(sorted({one.accelerator for found in good for one in found if one.accelerator}))
    refused = _refused(tried, good, predicate, places)
    n = min(len(found) for found in good)
    if refused:
        skipped = any(found and all(one.status == "skipped" for one in found) for found in tried)
        return Effect(None, n, accelerators, refused, skipped)
    interval, count = _EFFECTS[predicate.effect](good, predicate)
    if count < predicate.minimum:
        return Effect(
            None, count, accelerators, f"{count} of {predicate.minimum} samples that the plan asks for"
        )
    if interval is None or math.isnan(interval.estimate) or math.isnan(interval.low):
        return Effect(None, count, accelerators, "the samples do not bound the effect")
    return Effect(interval, count, accelerators)


def _refused(
    tried: Sequence[Sequence[Sample]],
    good: Sequence[Sequence[Sample]],
    predicate: Predicate,
    places: Sequence[Where],
) -> str:
    """Why these samples must not be judged; empty where they may."""
    for found, usable, where in zip(tried, good, places, strict=True):
        name = f"{where.target or where.probe} {where.image}".strip()
        kinds = {one.accelerator for one in usable}
        if len(kinds) > 1:
            return f"{name}: samples of {' and '.join(sorted(str(kind) for kind in kinds))} are mixed"
        if len({str(one.host.get("id", "")) for one in usable}) > 1:
            return f"{name}: samples of several hosts are mixed"
        if not usable:
            return _why_nothing(found, name, predicate.value)
        failed = sum(one.status in ("failed", "timeout") for one in found)
        if failed * 2 > len(found):
            return f"{name}: {failed} of {len(found)} runs failed: {_reason(found)}"
    if len({str(one.host.get("id", "")) for usable in good for one in usable}) > 1:
        return "the two sides come from different hosts"
    return ""


def _why_nothing(found: Sequence[Sample], name: str, value: str) -> str:
    if not found:
        return f"{name}: not measured"
    if any(one.status == "ok" for one in found):
        return f"{name}: no sample has {value}"
    return f"{name}: {_reason(found)}"


def _reason(found: Sequence[Sample]) -> str:
    return next((str(one.error) for one in found if one.error), "every run failed").splitlines()[0][:200]


def _readings(sample: Sample, value: str) -> list[float]:
    """The value of one sample, as a list of none or one."""
    edges = _EDGES.fullmatch(value)
    if edges:
        first, last = edges.groups()
        if first not in sample.edges_ns or last not in sample.edges_ns:
            return []
        return [(sample.edges_ns[last] - sample.edges_ns[first]) / 1e9]
    first, sign, second = _parted(value)
    if first not in sample.values or (sign and second not in sample.values):
        return []
    top, base = float(sample.values[first]), float(sample.values.get(second, 0))
    if sign == "/":
        return [top / base] if base > 0 else []  # noise below zero must not turn an order round
    return [top - base if sign else top]


def _parted(value: str) -> tuple[str, str, str]:
    """A value's name, or two names and the sign between them."""
    for sign in "/-":
        if sign in value:
            return value.partition(sign)
    return value, "", ""


Found = tuple[Interval | None, int]


def _numbers(found: Sequence[Sample], value: str) -> list[float]:
    return [number for one in found for number in _readings(one, value)]


def _median(good: Sequence[Sequence[Sample]], predicate: Predicate) -> Found:
    numbers = _numbers(good[0], predicate.value)
    return stats.median_interval(numbers), len(numbers)


def _all(good: Sequence[Sequence[Sample]], predicate: Predicate) -> Found:
    """Every sample must keep the bound: the interval is from the least to the greatest."""
    numbers = _numbers(good[0], predicate.value)
    return Interval(stats.median_interval(numbers).estimate, min(numbers), max(numbers)), len(numbers)


def _pairs(good: Sequence[Sequence[Sample]], value: str) -> list[tuple[float, float]]:
    """Values of the two sides that share a block; repeated readings of a block meet in its middle."""
    above, below = (_by_block(found, value) for found in good)
    return [(above[block], below[block]) for block in sorted(above.keys() & below.keys())]


def _by_block(found: Sequence[Sample], value: str) -> Mapping[int, float]:
    numbers: dict[int, list[float]] = {}
    for one in found:
        numbers.setdefault(one.block, []).extend(_readings(one, value))
    return {block: sorted(each)[len(each) // 2] for block, each in numbers.items()}


def _ratio(good: Sequence[Sequence[Sample]], predicate: Predicate) -> Found:
    pairs = [(top, base) for top, base in _pairs(good, predicate.value) if base > 0]
    return stats.ratio_interval(pairs), len(pairs)


def _difference(good: Sequence[Sequence[Sample]], predicate: Predicate) -> Found:
    pairs = _pairs(good, predicate.value)
    return stats.median_interval([top - base for top, base in pairs]), len(pairs)


def _points(found: Sequence[Sample], predicate: Predicate) -> tuple[list[float], list[float]]:
    whole = [one for one in found if predicate.over in one.values]
    return [float(one.values[predicate.over]) for one in whole], _numbers(whole, predicate.value)


def _slope(good: Sequence[Sequence[Sample]], predicate: Predicate) -> Found:
    xs, ys = _points(good[0], predicate)
    return stats.slope_interval(xs, ys), len(xs)


def _slope_ratio(good: Sequence[Sequence[Sample]], predicate: Predicate) -> Found:
    """The widest that two slopes' intervals allow: cautious, and right whatever their correlation.

    One more instance takes a page at least: noise that hides a small slope must not make the ratio endless.
    """
    (xs, ys), (base_xs, base_ys) = (_points(found, predicate) for found in good)
    top, base = stats.slope_interval(xs, ys), stats.slope_interval(base_xs, base_ys)
    count = min(len(xs), len(base_xs))
    low, middle, high = (max(value, PAGE_BYTES) for value in (base.low, base.estimate, base.high))
    return Interval(top.estimate / middle, top.low / high, top.high / low), count


def _exponent(good: Sequence[Sequence[Sample]], predicate: Predicate) -> Found:
    xs, ys = _points(good[0], predicate)
    return stats.log_log_slope(xs, ys), len(xs)


_EFFECTS = {
    "median": _median, "all": _all, "ratio": _ratio, "difference": _difference,
    "slope": _slope, "slope-ratio": _slope_ratio, "exponent": _exponent,
}  # fmt: skip


def side(interval: Interval, bound: Bound) -> str:
    """Where a whole interval lies: `inside` the predicate, `outside`, or `across` its border."""
    low, high = interval.low, interval.high
    if bound.sign == "==":
        bound = Bound("within", bound.low, bound.low)
    if bound.sign == "within":
        if bound.low <= low and high <= bound.high:
            return "inside"
        return "outside" if high < bound.low or low > bound.high else "across"
    if bound.sign in (">", ">="):
        inside, outside = low > bound.low, high < bound.low
        touches_in, touches_out = low >= bound.low, high <= bound.low
    else:
        inside, outside = high < bound.low, low > bound.low
        touches_in, touches_out = high <= bound.low, low >= bound.low
    strict = bound.sign in (">", "<")
    if inside or (touches_in and not strict):
        return "inside"
    return "outside" if outside or (touches_out and strict) else "across"
