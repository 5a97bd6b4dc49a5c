"""Several results side by side: ratios within each host and accelerator, never raw times across them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from bench.core.sample import Sample
from bench.core.stats import Interval
from reports import units
from reports.figures.across import Across, across_figure
from reports.figures.figure import Table
from reports.gathered import Group, groups
from reports.sections import Part, Section
from reports.summaries import Reading, named, reference_of, start_time, summaries

MOST_SETS = 8
WHATS = (
    (("command", "boot"), "start", start_time),
    (("memory",), "memory, PSS", named("pss_bytes")),
    (("disk",), "disk, unique", named("unique_bytes")),
)


@dataclass(frozen=True)
class Set:
    """Samples that may be compared with each other: of one file and one host."""

    name: str
    samples: tuple[Sample, ...]


def sets(named_samples: Sequence[tuple[str, Sequence[Sample]]]) -> list[Set]:
    """One set a file and host; a file of one host keeps its own name."""
    made = []
    for name, samples in named_samples:
        hosts: dict[str, list[Sample]] = defaultdict(list)
        for sample in samples:
            hosts[str(sample.host.get("id", ""))].append(sample)
        for host, found in hosts.items():
            made.append(Set(name if len(hosts) == 1 else f"{name} on {host}", tuple(found)))
    return made


def comparison_section(compared: Sequence[Set]) -> Section | None:
    """The chapter that sets them side by side; None for a single set."""
    if len(compared) < 2:
        return None
    rows = [row for one in compared[:MOST_SETS] for row in _rows(one)]
    shared = [row for row in rows if sum(other.label == row.label for other in rows) > 1]
    figure = across_figure(shared, [one.name for one in compared[:MOST_SETS]])
    parts = [Part("table", _hosts(compared), "What is compared")]
    parts += [Part("figure", figure)] if figure else []
    words = (
        f"{len(compared)} sets of results. Each ratio was taken within one host, one accelerator and one "
        "block; raw "
        "times of different hosts never meet. What agrees across sets is about machines and containers, what "
        "differs is about hosts.",
    )
    return Section("compared", "Compared", "Side by side", words, tuple(parts))


def _rows(one: Set) -> list[Across]:
    found = []
    for modes, what, read in WHATS:
        made = groups(one.samples, modes)
        for group in made:
            # A condition that a whole set was measured under is what the sets differ in: their names tell it.
            alone = sum((other.mode, other.image) == (group.mode, group.image) for other in made) == 1
            subject = group.image if alone else group.subject
            found += _of_group(one.name, group, f"{what}{_mode(group)}, {subject}", read)
    return found


def _mode(group: Group) -> str:
    return f" {group.mode}" if group.mode == "boot" else ""


def _of_group(name: str, group: Group, what: str, read: Reading) -> list[Across]:
    reference = reference_of(group)
    made = []
    for summary in summaries(group, read, reference):
        if summary.ratio is not None and not _nan(summary.ratio):
            label = f"{what}: {summary.series.target} / {reference}"
            under = summary.series.accelerator or ""
            made.append(Across(label, name, under.upper(), summary.ratio, summary.n))
    return made


def _nan(interval: Interval) -> bool:
    return interval.low != interval.low or interval.estimate <= 0 or interval.low <= 0


def _hosts(compared: Sequence[Set]) -> Table:
    rows = []
    for one in compared:
        host = next((sample.host for sample in one.samples if sample.host), {})
        accelerators = sorted({sample.accelerator for sample in one.samples if sample.accelerator})
        memory = host.get("memory_bytes")
        size = units.size(memory) if isinstance(memory, int | float) else "–"
        told = [str(host.get(key, "–")) for key in ("cpu_model", "cores", "kernel")]
        rows.append(
            (
                one.name,
                *told[:2],
                size,
                told[2],
                ", ".join(accelerators).upper() or "–",
                str(len(one.samples)),
            )
        )
    return Table(
        ("set", "processor", "cores", "memory", "kernel", "accelerator", "samples"), tuple(rows), True
    )
