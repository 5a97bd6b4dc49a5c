"""Scales: a value becomes a place in px, and an axis gets ticks that people would have chosen."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reports import units


@dataclass(frozen=True)
class Scale:
    """Maps [low, high] to [start_px, end_px], linearly or by logarithm; values outside land on the edge."""

    low: float
    high: float
    start_px: float
    end_px: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self._turned(self.low), self._turned(self.high)
        share = (self._turned(max(value, self.low)) - low) / (high - low)
        return self.start_px + min(max(share, 0.0), 1.0) * (self.end_px - self.start_px)

    def _turned(self, value: float) -> float:
        return math.log10(value) if self.log else value


def log_scale(values: Iterable[float], start_px: float, end_px: float, least_decades: float = 1.0) -> Scale:
    """A log scale over all positive values, a little air on both sides, at least `least_decades` wide."""
    positive = [value for value in values if value > 0] or [1.0]
    low, high = math.log10(min(positive)), math.log10(max(positive))
    air = max((high - low) * 0.06, (least_decades - (high - low)) / 2, 0.04)
    return Scale(10 ** (low - air), 10 ** (high + air), start_px, end_px, log=True)


def linear_scale(high: float, start_px: float, end_px: float, low: float = 0.0) -> Scale:
    """A linear scale from `low` (mostly zero) to `high`."""
    return Scale(low, high if high > low else low + 1.0, start_px, end_px)


def linear_ticks(scale: Scale, at_most: int, unit: float = 1.0) -> list[float]:
    """Round places (1, 2 or 5 times a power of ten, in `unit`s) inside the scale."""
    rough = (scale.high - scale.low) / max(at_most, 1) / unit
    power = 10.0 ** math.floor(math.log10(rough))
    step = unit * next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(scale.low / step - 1e-9)
    last = math.floor(scale.high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def log_ticks(scale: Scale, bases: Sequence[float], gap_px: float = 40) -> list[float]:
    """The ticks of `bases` inside the scale, powers of ten first, the others where `gap_px` leaves room."""
    inside = [tick for tick in bases if scale.low <= tick <= scale.high]
    kept: list[float] = []
    for tick in sorted(inside, key=lambda tick: not _is_power(tick)):
        if all(abs(scale(tick) - scale(other)) >= gap_px for other in kept):
            kept.append(tick)
    return sorted(kept)


def _is_power(tick: float) -> bool:
    return abs(math.log10(tick) - round(math.log10(tick))) < 1e-9


def decades(per_decade: Sequence[float] = (1,)) -> list[float]:
    """1, 10, 100... (or 1, 3, 10...) over every magnitude that a plot of ours meets."""
    return [factor * 10.0**power for power in range(-10, 16) for factor in per_decade]


def binary_decades() -> list[float]:
    """1, 10, 100 of B, KiB, MiB, GiB, TiB, in bytes."""
    return [factor * 1024.0**power for power in range(5) for factor in (1, 10, 100)]


@dataclass(frozen=True)
class Quantity:
    """What an axis shows: its name, how a tick is written, where log ticks may stand, and the unit of linear
    ones."""

    name: str
    words: units.Words
    log_places: tuple[float, ...]
    unit: float = 1.0


DURATION = Quantity("time", lambda value: units.seconds(value, 1), tuple(decades((1, 2, 5))))
SIZE = Quantity("size", lambda value: units.size(value, 1), tuple(binary_decades()))
RATIO = Quantity("ratio", lambda value: f"{value:g}×", tuple(decades((1, 2, 5))))
NUMBER = Quantity("value", units.significant, tuple(decades((1, 2, 5))))


def quantity_of(name: str) -> Quantity:
    """The quantity that a value's name ends with."""
    if name.endswith("_bytes") or "_bytes_per_" in name:
        return SIZE
    if name.endswith("_s") and not name.endswith("_per_s"):
        return DURATION
    return RATIO if name.endswith("_ratio") else NUMBER
