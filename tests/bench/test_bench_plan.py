"""Plans and schedules: declared before the run, the same every time, random where it has to be."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from bench import experiments, targets
from bench.core import plan, resume, schedule
from bench.core.sample import Sample
from host.errors import Usage

GROUP = {"experiment": "start", "mode": "command", "image": "tiny", "targets": ["a", "b", "c"], "runs": 4}


def _plan(**changed: object) -> plan.Plan:
    return plan.from_record({"name": "p", "groups": [{**GROUP, **changed}]})


def test_the_hash_changes_with_the_question_and_not_with_the_estimate() -> None:
    assert _plan().hash == _plan(expect_s={"a": 3.0}).hash
    assert _plan().hash != _plan(runs=5).hash
    assert _plan().hash != plan.from_record({"name": "p", "groups": [GROUP], "thresholds": {"x": 1}}).hash


def test_a_plan_survives_campaign_json() -> None:
    made = _plan(params={"n": [1, 2]}, command=["true"])
    assert plan.from_record(made.to_record()) == made


def test_lists_of_parameters_and_images_are_a_sweep() -> None:
    made = _plan(images=["x", "y"], params={"n": [1, 2], "m": 3})
    assert [cell.key for group in made.groups for cell in group.cells() if cell.target == "a"] == [
        "start/command/x,n=1,m=3/a", "start/command/x,n=2,m=3/a",
        "start/command/y,n=1,m=3/a", "start/command/y,n=2,m=3/a",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "word"),
    [({"mode": "x"}, "mode"), ({"runs": 0}, "runs"), ({"typo": 1}, "typo"), ({"image": ""}, "image"),
     ({"targets": []}, "targets"), ({"deadline_s": 0}, "deadline_s")],
)  # fmt: skip
def test_a_wrong_plan_names_what_is_wrong(changed: dict[str, object], word: str) -> None:
    with pytest.raises(Usage, match=word):
        _plan(**changed)


def test_the_same_cell_twice_is_refused() -> None:
    with pytest.raises(Usage, match="twice"):
        plan.from_record({"name": "p", "groups": [GROUP, GROUP]})


def test_a_file_that_is_no_toml_is_told(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text("name = ")
    with pytest.raises(Usage, match=r"p\.toml"):
        plan.load(path)


@pytest.mark.parametrize("name", experiments.plans())
def test_every_plan_that_comes_with_vmm_can_be_read(name: str) -> None:
    made = plan.load(experiments.plans()[name])
    assert made.question
    assert all(callable(experiments.measure_of(cell)) for group in made.groups for cell in group.cells())


def test_every_block_has_every_cell_once_and_warm_up_comes_first() -> None:
    made = list(schedule.blocks(_plan(warmup=2).groups[0], seed=1))
    assert [block[0].block for block in made] == [-2, -1, 0, 1, 2, 3]
    assert all(sorted(turn.cell.target for turn in block) == ["a", "b", "c"] for block in made)
    assert [turn.order for block in made for turn in block] == list(range(18))


def test_order_is_random_between_blocks_and_the_same_for_the_same_seed() -> None:
    group = _plan(runs=300).groups[0]
    orders = [tuple(turn.cell.target for turn in block) for block in schedule.blocks(group, seed=1)]
    assert orders == [tuple(turn.cell.target for turn in block) for block in schedule.blocks(group, seed=1)]
    assert orders != [tuple(turn.cell.target for turn in block) for block in schedule.blocks(group, seed=2)]
    counts = Counter(orders)
    assert len(counts) == 6
    assert max(counts.values()) < 2 * min(counts.values()) + 10  # 50 expected of each


def test_what_is_left_is_the_plan_minus_what_is_recorded() -> None:
    turns = [turn for block in schedule.blocks(_plan().groups[0], seed=1) for turn in block]
    samples = [_sampled(turn, "ok") for turn in turns[:5]] + [_sampled(turns[5], "skipped")]
    assert resume.left(turns, resume.done(samples)) == tuple(turns[5:])


def _sampled(turn: schedule.Turn, status: str) -> Sample:
    cell, order = turn.cell, turn.order
    return Sample(
        "c", "h", "start", cell.key, cell.target, "tiny", "command", turn.block, order, False, status
    )


def test_some_groups_of_a_plan_by_a_text_of_their_name() -> None:
    whole = plan.load(experiments.plan_path("reach-clones"))
    some = plan.some(whole, "part=nth")
    assert {group.image for group in some.groups} == {"tiny", "debian"}
    assert all("part=nth" in group.cells()[0].group for group in some.groups)
    with pytest.raises(Usage, match="no such group"):
        plan.some(whole, "part=none")


def test_the_ladder_is_one_group_of_targets_that_are_there() -> None:
    (group,) = plan.load(experiments.plan_path("ladder")).groups
    assert set(group.targets) == {name for name in targets.TARGETS if name.startswith("rung-")}
