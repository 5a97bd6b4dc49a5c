"""The phases of a start: what lies between two edges, by name."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from bench.core.sample import EDGES
from reports.gathered import Series

# A phase is named by the edge that ends it; where an edge was skipped the phase covers its share as well.
PHASE_WORDS = {
    "t1": "image and disk",
    "t2": "prepare",
    "t3": "VMM starts",
    "t4": "to first output",
    "t5": "firmware, loader",
    "t6": "kernel boots",
    "t7": "network",
    "t8": "init and reply",
    "t9": "teardown",
}
CONTAINER_WORDS = {"t6": "namespaces, mounts, exec", "t8": "command and reply"}


@dataclass(frozen=True)
class Phase:
    """One interval: between which edges, where its median borders lie, and its own median length."""

    first: str
    last: str
    words: str
    start_s: float
    end_s: float
    median_s: float
    lengths_s: tuple[float, ...]

    @property
    def interval(self) -> str:
        """The edges, as the page names them."""
        return f"{self.first} → {self.last}"


def phases(series: Series, machine: bool) -> list[Phase]:
    """The phases of one target's starts; only edges that most of its good runs passed count."""
    runs = [sample.edges_ns for sample in series.good() if "t8" in sample.edges_ns]
    if not runs:
        return []
    passed = [edge for edge in EDGES if sum(edge in run for run in runs) * 2 > len(runs)]
    # A quiet kernel is entered (t5) before it says its first word (t4): time decides the order, not names.
    passed.sort(key=lambda edge: statistics.median(run[edge] for run in runs if edge in run))
    whole = [run for run in runs if all(edge in run for edge in passed)]
    if not whole or statistics.median(run[passed[-1]] for run in whole) <= 0:
        return []
    return [_phase(whole, first, last, machine) for first, last in pairwise(passed)]


def _phase(runs: Sequence[Mapping[str, int]], first: str, last: str, machine: bool) -> Phase:
    lengths = tuple((run[last] - run[first]) / 1e9 for run in runs)
    start, end = (statistics.median(run[edge] for run in runs) / 1e9 for edge in (first, last))
    words = PHASE_WORDS[last] if machine else CONTAINER_WORDS.get(last, PHASE_WORDS[last])
    return Phase(first, last, words, start, end, statistics.median(lengths), lengths)
