"""Numbers as people read them: three significant figures, always with the unit."""

from __future__ import annotations

import math
from collections.abc import Callable

_TIMES = ((1e-6, 1e9, "ns"), (1e-3, 1e6, "µs"), (1.0, 1e3, "ms"), (math.inf, 1.0, "s"))
_SIZES = ("B", "KiB", "MiB", "GiB", "TiB")
Words = Callable[[float], str]
NARROW_SPACE = "\u202f"


def significant(value: float, figures: int = 3) -> str:
    """A plain decimal with so many significant figures: 0.0123, 1.23, 123, 12 300."""
    if not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    places = figures - 1 - math.floor(math.log10(abs(value)))
    rounded = round(value, places)
    words = f"{rounded:,.{max(places, 0)}f}"
    return words.replace(",", NARROW_SPACE).replace("-", "−")


def seconds(value_s: float, figures: int = 3) -> str:
    """A duration: 412 µs, 12.3 ms, 4.56 s."""
    for below, factor, unit in _TIMES:
        if abs(value_s) < below:
            return f"{significant(value_s * factor, figures)} {unit}"
    return f"{significant(value_s, figures)} s"


def size(value_bytes: float, figures: int = 3) -> str:
    """A size in powers of 1024: 12.3 MiB."""
    scaled = value_bytes
    for unit in _SIZES:
        if abs(scaled) < 1000 or unit == _SIZES[-1]:
            return f"{significant(scaled, figures)} {unit}"
        scaled /= 1024
    raise AssertionError("the last unit takes every size")


def times(value: float) -> str:
    """A ratio: 62×, 1.4×, 0.85×."""
    return f"{significant(value, 2 if value >= 10 else 3)}×"


def by_unit(name: str, value: float) -> str:
    """A value written by the unit at the end of its name; a name without a known unit stays a bare number."""
    if name.endswith("_bytes") or "_bytes_per_" in name:
        return size(value)
    if name.endswith("_ns"):
        return seconds(value / 1e9)
    if name.endswith("_us"):
        return seconds(value / 1e6)
    if name.endswith("_ms"):
        return seconds(value / 1e3)
    if name.endswith("_s") and not name.endswith("_per_s"):
        return seconds(value)
    if name.endswith("_ratio"):
        return times(value)
    return significant(value)
