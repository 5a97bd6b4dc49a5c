"""The chapters of the page, each from the samples alone; a chapter without data is left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.core.sample import Sample
from reports import units
from reports.answers import answer
from reports.figures.cost import cost_figure
from reports.figures.density import capacity_figure, kth_figure
from reports.figures.ecdf import start_figure
from reports.figures.figure import Figure
from reports.figures.heat import heat_figure
from reports.figures.measures import DISK, MEMORY, measures_figure
from reports.figures.order import order_figure
from reports.figures.race import race_figure
from reports.figures.slope import slope_figure
from reports.figures.stack import stack_figure
from reports.figures.timeline import timeline_figure
from reports.gathered import START_MODES, groups
from reports.summaries import named, start_time
from reports.tables import MedianTable, medians


@dataclass(frozen=True)
class Part:
    """One piece of a chapter: figure, medians, answers, table, facts, list or code."""

    kind: str
    content: Any
    title: str = ""


@dataclass(frozen=True)
class Section:
    """One chapter."""

    id: str
    short: str
    title: str
    words: tuple[str, ...]
    parts: tuple[Part, ...]


def results_sections(samples: Sequence[Sample]) -> list[Section]:
    """The chapters that tell results, in reading order."""
    made = [
        _answer(samples),
        _start(samples),
        _phases(samples),
        _memory(samples),
        _density(samples),
        _disk(samples),
        _work(samples),
        _drift(samples),
    ]
    return [section for section in made if section]


def _answer(samples: Sequence[Sample]) -> Section | None:
    found = answer(samples)
    picture = cost_figure(found.costs, "ink-ct")
    if not found.sentences and not picture:
        return None
    parts = [*_figures([picture]), *([Part("answers", found.sentences)] if found.sentences else [])]
    return Section("the-answer", "The answer", "The answer first", (), tuple(parts))


def _start(samples: Sequence[Sample]) -> Section | None:
    parts: list[Part] = []
    for group in groups(samples, START_MODES):
        what = f"Interval t0 → t8 of {group.subject}, {group.mode} mode."
        table = medians(group, start_time, units.seconds, what)
        title = f"Medians: {group.subject}, {group.mode} mode"
        parts += [*_figures([start_figure(group)]), *_tables(table, title)]
    words = (
        "Command mode starts an instance to run one command and ends when the command's first correct reply "
        "is "
        "read; the same file of the same image writes it on every target. Boot mode starts systemd and ends "
        "at "
        "sshd's first byte. The two answer different questions, so no ratio here crosses them.",
    )
    return Section("start-up", "Start-up", "How long a start takes", words, tuple(parts)) if parts else None


def _phases(samples: Sequence[Sample]) -> Section | None:
    commands = groups(samples, ["command"])
    parts = _figures([race_figure(commands[0])] if commands else [])
    parts += _figures([timeline_figure(group) for group in groups(samples, START_MODES)])
    words = (
        "Every edge of a start is stamped on the host's clock, so a machine and a container lie on one time "
        "axis. "
        "Where a bar ends is a choice: another edge gives another ratio.",
    )
    return Section("phases", "Phases", "Where the time goes", words, tuple(parts)) if parts else None


def _memory(samples: Sequence[Sample]) -> Section | None:
    parts: list[Part] = []
    caption = (
        "Each instance idle and held two seconds after its reply; one mark a measure, summed over all "
        "its host processes."
    )
    for group in groups(samples, ["memory"]):
        parts += _figures(
            [measures_figure(group, MEMORY, "Memory of one idle instance", caption), slope_figure(group)]
        )
        parts += _tables(
            medians(group, named("pss_bytes"), units.size, "PSS of one idle instance."),
            f"PSS: {group.subject}",
        )
    words = (
        "No single number is the memory of an instance. RSS counts shared pages in full, USS not at all, "
        "PSS by "
        "share; what the guest believes is another thing again, and the RAM that was configured is only a "
        "ceiling.",
    )
    return Section("memory", "Memory", "What an idle instance holds", words, tuple(parts)) if parts else None


def _density(samples: Sequence[Sample]) -> Section | None:
    parts: list[Part] = []
    for group in groups(samples, ["memory", "workload"]):
        parts += _figures([stack_figure(group), kth_figure(group), capacity_figure(group)])
    words = (
        "What one instance holds is not what the hundredth costs: pages are shared, kernel objects are not, "
        "and every start meets those that are already there. Measured points are drawn solid; what the slope "
        "says beyond them is hatched, since nobody has seen it here.",
    )
    return Section("density", "Density", "How many fit", words, tuple(parts)) if parts else None


def _disk(samples: Sequence[Sample]) -> Section | None:
    caption = (
        "One more instance over its image, after a sync; the shared base is not counted, nothing was "
        "compressed."
    )
    parts: list[Part] = []
    for group in groups(samples, ["disk"]):
        parts += _figures([measures_figure(group, DISK, "Disk of one more instance", caption)])
    words = (
        "A file's length is a promise; the blocks allocated for it are what the disk holds; the blocks that "
        "it "
        "shares with nobody are what removing it gives back.",
    )
    return (
        Section("disk", "Disk", "What one more instance takes on disk", words, tuple(parts))
        if parts
        else None
    )


def _work(samples: Sequence[Sample]) -> Section | None:
    parts = _figures([heat_figure(samples)])
    words = (
        "Starting is paid once, working every second. The same static program did the same work on every "
        "target; "
        "each number is its time over the plain process's.",
    )
    return Section("work", "Work", "What work costs", words, tuple(parts)) if parts else None


def _drift(samples: Sequence[Sample]) -> Section | None:
    parts = _figures([order_figure(groups(samples, START_MODES))])
    words = (
        "Targets took turns in random order, block by block, so a host that slows down slows all of them. "
        "This picture is the check that it stayed the same.",
    )
    return Section("drift", "Drift", "Did the host hold still?", words, tuple(parts)) if parts else None


def _figures(figures: Sequence[Figure | None]) -> list[Part]:
    return [Part("figure", figure) for figure in figures if figure]


def _tables(table: MedianTable | None, title: str) -> list[Part]:
    return [Part("medians", table, title)] if table else []
