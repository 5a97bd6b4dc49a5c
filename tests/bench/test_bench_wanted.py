"""Figures that a plan fixed beforehand are judged by intervals, paired by block."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.core import plan, wanted
from bench.core.sample import Sample

BLOCKS = 12


def _samples(**medians_s: float) -> list[Sample]:
    """Starts that drift by half from block to block; their ratios do not."""
    samples = []
    for name, seconds in medians_s.items():
        for block in range(BLOCKS):
            length_ns = int(1e9 * seconds * (1 + block / 10) * (1 + (block % 3) / 100))
            head = ("c", "h", "start", f"start/command/tiny/{name}", name, "tiny", "command")
            edges = {"t0": 0, "t8": length_ns}
            samples.append(Sample(*head, block, block, False, "ok", edges_ns=edges))
    return samples


def _judged(text: str, figure: float, samples: list[Sample]) -> list[wanted.Judged]:
    groups = [{"experiment": "start", "mode": "command", "image": "tiny", "targets": ["a", "b"]}]
    made = plan.from_record({"name": "p", "groups": groups, "thresholds": {text: figure}})
    return wanted.judged(made, samples)


@pytest.mark.parametrize(("figure", "words"), [(1.6, "reached"), (1.5, "reached"), (1.4, "missed")])
def test_a_ratio_is_judged_by_its_whole_interval(figure: float, words: str) -> None:
    (one,) = _judged("a / b", figure, _samples(a=0.3, b=0.2))
    assert one.found.estimate == pytest.approx(1.5)
    assert one.words == words
    assert "wanted <=" in wanted.to_text([one])


def test_a_difference_is_in_seconds() -> None:
    (one,) = _judged("a - b", 0.5, _samples(a=0.3, b=0.2))
    assert 0.1 <= one.found.estimate <= 0.25
    assert one.words == "reached"


def test_an_interval_that_holds_the_figure_leaves_it_open() -> None:
    (one,) = _judged("a - b", 0.15, _samples(a=0.3, b=0.2))
    assert one.words == "open"


def test_figures_of_targets_that_were_not_run_are_not_judged() -> None:
    assert _judged("a / c", 1.0, _samples(a=0.3, b=0.2)) == []
    assert _judged("equivalent_ratio", 1.05, _samples(a=0.3, b=0.2)) == []


def test_another_number_than_the_start_is_named_by_in() -> None:
    samples = [
        replace(one, values={"rebuild_s": 2 * one.edges_ns["t8"] / 1e9}) for one in _samples(a=0.3, b=0.4)
    ]
    (ratio,) = _judged("a / b in rebuild_s", 0.8, samples)
    assert ratio.found.estimate == pytest.approx(0.75)
    (alone,) = _judged("a in rebuild_s", 0.5, samples)
    assert alone.n == BLOCKS
    assert alone.words == "missed"
    assert _judged("a in moved_ratio", 1.0, samples) == []


@pytest.mark.parametrize(("figure", "words"), [(1, "reached, seen once"), (0, "missed, seen once")])
def test_one_run_is_told_as_one(figure: float, words: str) -> None:
    head = ("c", "h", "start", "start/command/tiny/a", "a", "tiny", "command")
    sample = Sample(*head, 0, 0, False, "ok", values={"left": 1.0})
    (one,) = _judged("a in left", figure, [sample])
    assert one.words == words


def test_a_start_of_reach_machines_tells_its_first_serial_byte() -> None:
    from types import SimpleNamespace

    from bench.core.target import Cell, Parts
    from bench.experiments.reach_machines.measure import measure

    cell = Cell("reach-machines", "command", "tiny", "vm")
    spoke = SimpleNamespace(run_once=lambda _: Parts(edges_ns={"t4": 5_000_000}))
    silent = SimpleNamespace(run_once=lambda _: Parts(status="failed"))
    parts = measure(spoke, cell)  # type: ignore[arg-type]
    assert isinstance(parts, Parts)
    assert parts.values == {"first_byte_s": 0.005}
    parts = measure(silent, cell)  # type: ignore[arg-type]
    assert isinstance(parts, Parts)
    assert parts.values == {}
