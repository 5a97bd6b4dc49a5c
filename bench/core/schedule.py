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
    """The blocks of a group: its warm-up blocks, then `runs` of them, or `max_runs` with `longest`.

    The order inside a block depends on seed, group and block alone: a resumed campaign finds the same one.
    """
    runs = max(group.runs, group.max_runs) if longest else group.runs
    cells = group.cells()
    for place, block in enumerate(range(-group.warmup, runs)):
        chance = random.Random(f"{seed}/{cells[0].group}/{block}")
        shuffled = chance.sample(cells, len(cells))
        start = first_order + place * len(cells)
        yield tuple(Turn(cell, block, start + index) for index, cell in enumerate(shuffled))
