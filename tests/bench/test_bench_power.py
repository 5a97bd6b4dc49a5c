"""The default plan of `fake`: it leaves equal things alone, and finds a 5 % shift."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from bench import experiments
from bench.core import compare, plan, schedule, stopping
from bench.core.plan import Group
from bench.core.sample import Sample, times_s
from bench.core.schedule import Turn
from bench.targets.fake import Fake, FakeB

CAMPAIGNS = 200


def _sampled(turn: Turn, targets: dict[str, Fake]) -> Sample:
    cell = replace(turn.cell, run=turn.order)
    parts = targets[cell.target].run_once(cell)
    targets[cell.target]._runs = 0  # a worker of its own
    head = ("c", "h", "start", cell.key, cell.target, "none", "command")
    return Sample(*head, turn.block, turn.order, turn.warmup, "ok", edges_ns=parts.edges_ns)


def _campaign(group: Group, seed: int, shift: float) -> tuple[str, int]:
    """The verdict of one campaign by the same schedule, stop rule and test as `vmm bench`, and its blocks."""
    params = (*group.params, ("seed", seed), ("shift", shift))
    group = replace(group, params=params)
    targets: dict[str, Fake] = {"fake": Fake(), "fake-b": FakeB()}
    samples: list[Sample] = []
    values: dict[str, list[float]] = {name: [] for name in targets}
    looks = stopping.Looks(group)
    for block in schedule.blocks(group, seed, longest=True):
        if looks.are_enough(block[0].block, values.values()):
            break
        for turn in block:
            samples.append(_sampled(turn, targets))
            values[turn.cell.target] += times_s(samples[-1:])
    verdict = compare.paired(samples, group.cells()[0].group, "fake", "fake-b")
    return verdict.words, verdict.n[0]


@pytest.mark.parametrize(("shift", "least", "most"), [(1.0, 0, 0.05), (1.05, 0.80, 1.0)])
def test_the_default_plan_finds_5_percent_and_invents_nothing(
    shift: float, least: float, most: float
) -> None:
    (group,) = plan.load(experiments.plan_path("fake")).groups
    found = [_campaign(group, seed, shift) for seed in range(CAMPAIGNS)]
    different = Counter(words for words, _ in found)["different"] / CAMPAIGNS
    assert least <= different <= most
    assert all(group.runs <= blocks <= group.max_runs for _, blocks in found)


def test_the_stop_rule_waits_for_two_narrow_looks_in_a_row() -> None:
    group = Group("start", "command", "x", ("a",), runs=10, max_runs=50, precision=0.05, look_every=5)
    looks = stopping.Looks(group)
    narrow, wide = [[1.0 + place / 1000 for place in range(20)]], [[float(place + 1) for place in range(20)]]
    told = [looks.are_enough(blocks, values) for blocks, values in
            [(10, narrow), (11, narrow), (15, wide), (20, narrow), (24, narrow), (25, narrow)]]  # fmt: skip
    assert told == [False, False, False, False, False, True]


def test_few_or_zero_values_are_never_precise() -> None:
    assert stopping.half_width([1.0] * 5) == float("inf")
    assert stopping.half_width([0.0] * 50) == float("inf")
    assert stopping.half_width([1.0] * 50) == 0
