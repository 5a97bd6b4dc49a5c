"""Overhead as a heat map: work by target, each cell a ratio to the plain process, darker the more it
costs."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from bench.core.sample import Sample
from bench.core.stats import Interval
from reports import palette, units
from reports.figures.figure import Figure, Table, figure
from reports.gathered import Series, condition
from reports.summaries import named, paired_ratio
from reports.svg import Svg, text_width
from reports.tables import span

BASE = "process"
CLAIM = re.compile(r"C\d+(?=\.)")
# The whole script's time, which says nothing beside the times of its parts.
WHOLE = "work_s"
RATE = "_per_second"
# A generator works for a fixed time: its rate is its answer. Of several the first here stands for all.
RATES = ("fio_ops_per_second",)
# Upper borders of the shades; beyond the last one it is the darkest.
SHADES = (0.95, 1.05, 1.3, 2.0, 5.0, 20.0)
CELL, ROW = 104.0, 40.0


@dataclass(frozen=True)
class Cell:
    """One ratio: in words, with its interval, and its shade."""

    work: str
    target: str
    words: str
    interval: str
    shade: int
    pairs: int


def heat_figure(samples: Sequence[Sample]) -> Figure | None:
    """All work of which the process and another target have times; None where there is none."""
    cells = _cells(samples)
    if not cells:
        return None
    pairs = [cell.pairs for cell in cells]
    caption = (
        "Time of the same work as a multiple of the plain process's, paired within blocks, n = "
        f"{min(pairs)} to "
        f"{max(pairs)} pairs; of a generator's rate, the process's over the target's. 95 % intervals in the "
        "table. A pale cell costs nothing, a dark one a lot."
    )
    emulated = any(sample.accelerator == "tcg" for sample in samples if sample.mode == "workload")
    return figure(
        "heat",
        "What work costs, by kind of work",
        caption,
        lambda w: _draw(cells, w),
        _table(cells),
        emulated,
    )


def _cells(samples: Sequence[Sample]) -> list[Cell]:
    found: dict[str, dict[tuple[str, str | None], list[Sample]]] = defaultdict(lambda: defaultdict(list))
    for sample in samples:
        if sample.mode == "workload" and not sample.warmup and sample.status == "ok":
            found[_subject(sample)][sample.target, sample.accelerator].append(sample)
    made = []
    for experiment, targets in sorted(found.items()):
        base = Series(BASE, None, tuple(targets.pop((BASE, None), ())))
        for (target, accelerator), runs in sorted(targets.items(), key=lambda one: palette.rank(one[0][0])):
            made += _of_series(experiment, Series(target, accelerator, tuple(runs)), base)
    return made


def _subject(sample: Sample) -> str:
    """The experiment and what tells its cells apart; of the parameter `work` its value says enough. A claim's
    probe is one experiment each.
    """
    if CLAIM.match(sample.experiment):
        return sample.experiment
    told = condition(sample).removeprefix("network=bridge, ").replace("work=", "")
    return f"{sample.experiment} {told}".strip()


def _names(series: Series) -> list[str]:
    """The values that are told: one rate where there is one, and every time but that of the whole script."""
    found = sorted({name for sample in series.samples for name in sample.values})
    rates = [name for name in found if name.endswith(RATE)]
    times = [name for name in found if name.endswith("_s")]
    chosen = ([name for name in rates if name in RATES] or rates)[:1]
    return chosen + (times if times == [WHOLE] and not rates else [name for name in times if name != WHOLE])


def _of_series(experiment: str, series: Series, base: Series) -> list[Cell]:
    made = []
    for name in _names(series):
        ratio = paired_ratio(series, base, named(name))
        if ratio is not None and name.endswith(RATE):
            ratio = Interval(1 / ratio.estimate, 1 / ratio.high, 1 / ratio.low)
        if ratio is not None:
            shade = sum(ratio.estimate > border for border in SHADES)
            work = _work(experiment, name.removesuffix("_s").replace("_", " "))
            told = span(ratio, units.times)
            made.append(
                Cell(work, series.label, units.times(ratio.estimate), told, shade, len(series.samples))
            )
    return made


def _work(experiment: str, name: str) -> str:
    """What was done, with the experiment; of a claim's probe the claim's number is enough."""
    claim = CLAIM.match(experiment)
    return f"{name} ({claim[0]})" if claim else f"{experiment} {name}".replace("_", " ")


def _draw(cells: Sequence[Cell], width: float) -> Svg:
    works = list(dict.fromkeys(one.work for one in cells))
    targets = sorted({one.target for one in cells}, key=lambda label: palette.rank(label.split(" ")[0]))
    narrow = width < 500
    gutter = 4.0 if narrow else 20 + max(text_width(work) for work in works)
    cell = min(CELL, (width - gutter) / len(targets))
    pitch = ROW + (20 if narrow else 0)
    svg = Svg(width, 34 + len(works) * pitch, _alt(cells), "heat")
    for column, target in enumerate(targets):
        svg.text(gutter + (column + 0.5) * cell, 20, target, "legend", "middle")
    for row, work in enumerate(works):
        y = 30 + row * pitch + (20 if narrow else 0)
        if narrow:
            svg.text(gutter, y - 6, work, "legend")
        else:
            svg.text(gutter - 12, y + ROW / 2 + 3, work, "legend", "end")
        for one in cells:
            if one.work == work:
                x = gutter + targets.index(one.target) * cell
                svg.rect(x, y, cell - 3, ROW - 5, f"heat-{one.shade}", 3)
                svg.text(x + cell / 2 - 1, y + ROW / 2 + 2, one.words, f"heat-words-{one.shade}", "middle")
    return svg


def _alt(cells: Sequence[Cell]) -> str:
    told = "; ".join(f"{one.work} in {one.target} {one.words}" for one in cells)
    return f"Heat map of the time of work as a multiple of a plain process: {told}."


def _table(cells: Sequence[Cell]) -> Table:
    rows = tuple((one.work, one.target, one.words, one.interval, str(one.pairs)) for one in cells)
    return Table(("work", "target", "times the process", "95 % interval", "runs"), rows)
