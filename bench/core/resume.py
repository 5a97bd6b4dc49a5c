"""What is left of a plan: the turns that it asks for minus those that are recorded."""

from __future__ import annotations

from collections.abc import Iterable

from bench.core.sample import Sample
from bench.core.schedule import Turn

Done = frozenset[tuple[str, int]]


def done(samples: Iterable[Sample]) -> Done:
    """Cell and block of every recorded run; a skipped target was not run and may have come since."""
    return frozenset((one.cell, one.block) for one in samples if one.status != "skipped")


def left(turns: Iterable[Turn], recorded: Done) -> tuple[Turn, ...]:
    """The turns that are not recorded, in their order."""
    return tuple(turn for turn in turns if (turn.cell.key, turn.block) not in recorded)
