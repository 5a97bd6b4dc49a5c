"""Samples put together for telling: one group an image, mode and condition, in it one series a target and
accelerator."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.core.sample import Sample
from reports import palette

START_MODES = ("command", "boot")
COLD = "cold cache"
_COLD_EXPERIMENT = "cold-start"
# How many instances there were is a value of each sample, not a condition of all.
_NO_CONDITION = ("instances=",)


@dataclass(frozen=True)
class Series:
    """The samples of one target under one accelerator, warm-ups left out, failures kept."""

    target: str
    accelerator: str | None
    samples: tuple[Sample, ...]

    @property
    def label(self) -> str:
        """The target's name, with the accelerator where one took part, and the way where it has several."""
        under = [self.accelerator.upper()] if self.accelerator else []
        return " · ".join([self.target, *under, *sorted({one.way for one in self.samples if one.way})])

    @property
    def emulated(self) -> bool:
        """True where the numbers are about QEMU's translator, not about machines as such."""
        return self.accelerator == "tcg"

    @property
    def css(self) -> str:
        """The class that colours this target."""
        return f"ink-{palette.ink(self.target).css}"

    def good(self) -> list[Sample]:
        """The samples that worked."""
        return [sample for sample in self.samples if sample.status == "ok"]

    def failures(self) -> list[Sample]:
        """The samples that failed or ran into their deadline; a skipped target was never tried."""
        return [sample for sample in self.samples if sample.status in ("failed", "timeout")]


@dataclass(frozen=True)
class Group:
    """What may be compared: one mode, one image, one condition (a plan's parameters), one host, every
    target.
    """

    mode: str
    image: str
    series: tuple[Series, ...]
    condition: str = ""

    @property
    def subject(self) -> str:
        """The image, with the condition that it was started under."""
        return f"{self.image} ({self.condition})" if self.condition else self.image

    @property
    def slug(self) -> str:
        """A name that can stand in an HTML id."""
        return re.sub(r"[^a-z0-9]+", "-", f"{self.mode}-{self.subject}".lower()).strip("-") or "group"

    def find(self, target: str) -> Series | None:
        """The target's series with the most good samples (two accelerators may stand side by side)."""
        mine = [series for series in self.series if series.target == target]
        return max(mine, key=lambda series: len(series.good()), default=None)


def groups(samples: Iterable[Sample], modes: Sequence[str]) -> list[Group]:
    """One group for each mode, image and condition that was tried: modes in the order asked, images by name,
    plain starts before those under a condition."""
    found: dict[tuple[str, str, str], dict[tuple[str, str | None], list[Sample]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for sample in samples:
        if sample.mode in modes and not sample.warmup and sample.status != "skipped":
            key = (sample.mode, sample.image, condition(sample))
            found[key][sample.target, sample.accelerator].append(sample)
    made = [Group(mode, image, _series(each), under) for (mode, image, under), each in found.items()]
    return sorted(
        made, key=lambda one: (modes.index(one.mode), one.image != "tiny", one.image, one.condition)
    )


def condition(sample: Sample) -> str:
    """The parameters in a cell's name that change what is measured; samples of two conditions are never one
    series."""
    if sample.experiment == _COLD_EXPERIMENT:
        return COLD
    _, found, rest = sample.cell.partition(f"/{sample.mode}/{sample.image},")
    told = rest.rpartition("/")[0].split(",") if found else []
    return ", ".join(one for one in told if not one.startswith(_NO_CONDITION))


def _series(found: dict[tuple[str, str | None], list[Sample]]) -> tuple[Series, ...]:
    """Series in the fixed order; a failed sample without accelerator joins the target's only series."""
    for (target, accelerator), lone in list(found.items()):
        others = [key for key in found if key[0] == target and key[1] is not None]
        if accelerator is None and others and all(sample.status != "ok" for sample in lone):
            found[others[0]] += found.pop((target, accelerator))
    keys = sorted(found, key=lambda key: (*palette.rank(key[0]), key[1] or ""))
    return tuple(
        Series(target, accelerator, tuple(found[target, accelerator])) for target, accelerator in keys
    )


def interval_s(sample: Sample, first: str = "t0", last: str = "t8") -> float | None:
    """Seconds between two edges of a start; None where either was not passed."""
    edges = sample.edges_ns
    if first not in edges or last not in edges:
        return None
    return (edges[last] - edges[first]) / 1e9


def times_s(samples: Iterable[Sample], first: str = "t0", last: str = "t8") -> list[float]:
    """The seconds of all samples that passed both edges."""
    found = (interval_s(sample, first, last) for sample in samples)
    return [value for value in found if value is not None and value > 0]


def values_of(samples: Iterable[Sample], name: str) -> list[float]:
    """A named value of all samples that have it."""
    return [float(sample.values[name]) for sample in samples if name in sample.values]
