"""The order of runs: blocks of every target once, shuffled, so that drift and order hit all of them alike."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

from bench.core.plan import Group
from bench.core.target import Cell


class Turn(NamedTuple):
    """One run to do; `block` counts from 0, warm-up blocks from below zero up to -1."""

    cell: Cell
    block: int
    order: int

    @property
    def warmup(self) -> bool:
        """Whether the run only warms caches; it is kept and marked."""
        return self.block < 0


def blocks(
    group: Group, seed: int, first_order: int = 0, longest: bool = False
) -> Iterator[tuple[Turn, ...]]:
    """The blocks of a group: its warm-up blocks, then `runs` of them, or `max_runs` with `longest`."""
    for number in range(-group.warmup, max(group.runs, group.max_runs) if longest else group.runs):
        yield block(group, seed, number, first_order)


def block(group: Group, seed: int, number: int, first_order: int = 0) -> tuple[Turn, ...]:
    """One block: every target once, in an order that depends on seed, group and number alone.

    So a resumed campaign, and every host of a cluster, finds the same one.
    """
    cells = group.cells()
    shuffled = random.Random(f"{seed}/{cells[0].group}/{number}").sample(cells, len(cells))
    start = first_order + (number + group.warmup) * len(cells)
    return tuple(Turn(cell, number, start + place) for place, cell in enumerate(shuffled))
