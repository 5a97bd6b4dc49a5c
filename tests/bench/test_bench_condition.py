"""--fail-if: a build fails where a number says so, and a typo never passes one."""

from __future__ import annotations

import math

import pytest

from bench.core import condition, noise, summary
from bench.core.campaign import _checked
from bench.core.condition import Held
from bench.core.sample import Sample
from bench.core.summary import Row
from bench.core.target import Parts
from host.errors import Usage


def _rows(**medians_s: float) -> list[Row]:
    samples = []
    for name, seconds in medians_s.items():
        target = name.replace("_", "-")
        for block in range(5):
            edges = {"t0": 0, "t8": int(seconds * 1e9)}
            cell = f"start/command/tiny/{target}"
            samples.append(
                Sample(
                    "c",
                    "h",
                    "start",
                    cell,
                    target,
                    "tiny",
                    "command",
                    block,
                    block,
                    False,
                    "ok",
                    edges_ns=edges,
                )
            )
    return summary.rows(samples)


def _held(text: str, rows: list[Row], baseline: list[Row] | None = None) -> list[Held]:
    return condition.held([condition.parse(text)], rows, baseline or [])


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("ct.start.median > 0.02", True),
        ("ct.start.median > 1.1 * base", True),
        ("ct.start.median > 2.1 * base", False),
        ("ct.tiny.start.median > 0.02", True),
        ("vm_libvirt.start.ratio >= 100", True),
        ("vm_libvirt.start.median < 10 * ct.start.median", False),
        ("ct.start.bad > 0", False),
        ("ct.start.n != 5", False),
        ("ct.start.median - 0.01 > base", True),
    ],
)
def test_a_condition_holds_by_its_numbers(text: str, holds: bool) -> None:
    rows = _rows(ct=0.04, vm_libvirt=4.0)
    assert bool(_held(text, rows, _rows(ct=0.02))) == holds


def test_what_holds_is_told_with_both_numbers() -> None:
    (one,) = _held("ct.start.median > 1.5 * base", _rows(ct=0.04), _rows(ct=0.02))
    assert (one.group, one.left, one.right) == ("start/command/tiny", 0.04, pytest.approx(0.03))


@pytest.mark.parametrize(
    "text",
    ["ct.start.median", "ct.start.mean > 1", "ct.median > 1", "1 > 2", "ct.start.median > open('x')", "ct >",
     "ct.start.median > 1 > 0", "ct.start.median > 2 ** 3", "ct.start.median > 's'", "ct.start.median > bas",
     "(ct.start.median > 1) > 0", "ct.start.median > -1"],
)  # fmt: skip
def test_a_condition_that_cannot_be_read_is_refused_before_the_campaign(text: str) -> None:
    with pytest.raises(Usage, match="condition"):
        condition.parse(text)


@pytest.mark.parametrize("text", ["podman.start.median > 1", "ct.debian.start.median > 1"])
def test_a_number_that_no_result_has_is_an_error_and_no_pass(text: str) -> None:
    with pytest.raises(Usage, match="no result"):
        _held(text, _rows(ct=0.04))


@pytest.mark.parametrize(
    "text", ["ct.start.median > 5", "ct.start.median < 5", "vm.start.median / ct.start.bad < 0"]
)
def test_a_number_that_no_run_gave_never_passes_a_build(text: str) -> None:
    failed = [one._replace(n=0, median=one.median._replace(estimate=math.nan)) for one in _rows(ct=1.0)]
    (one,) = _held(text, [*failed, *_rows(vm=1.0)])
    assert math.isnan(one.left)


def test_a_condition_over_two_targets_is_judged_where_both_are() -> None:
    both = _rows(ct=1.0, vm=2.0)
    alone = [row._replace(group="start/command/debian") for row in _rows(vm=9.0)]
    assert not _held("vm.start.median > 3 * ct.start.median", [*both, *alone])


def test_a_target_that_the_plan_has_not_is_refused_before_the_campaign() -> None:
    parsed = [condition.parse("vm_libvirt.start.median > 1"), condition.parse("ctt.start.median > 1")]
    with pytest.raises(Usage, match="'ctt'"):
        condition.check_targets(parsed, ("ct", "vm-libvirt"))


def test_base_without_a_baseline_is_an_error() -> None:
    with pytest.raises(Usage, match="baseline"):
        _held("ct.start.median > base", _rows(ct=0.04))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "7", None])
def test_a_value_that_is_no_number_makes_the_sample_a_failure(value: object) -> None:
    parts = _checked(Parts(values={"pss_bytes": value, "rss_bytes": 1.0}))  # type: ignore[dict-item]
    assert parts.status == "failed"
    assert "pss_bytes" in (parts.error or "")
    assert parts.values == {"rss_bytes": 1.0}


def test_time_that_ran_backwards_makes_the_sample_a_failure() -> None:
    assert _checked(Parts(edges_ns={"t0": 0, "t8": -5})).status == "failed"
    assert _checked(Parts(edges_ns={"t0": 0, "t8": 0})).status == "ok"


def _reading(**changed: float) -> noise.Reading:
    return noise.read()._replace(**{"at_s": 100.0, "wall_s": 1000.0, **changed})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("code", "after"),
    [
        ("clock-step", {"at_s": 101.0, "wall_s": 4600.0}),
        ("steal", {"at_s": 101.0, "wall_s": 1001.0, "steal_ticks": 50, "all_ticks": 200}),
        ("others", {"at_s": 101.0, "wall_s": 1001.0, "busy_ticks": 150, "all_ticks": 200}),
        ("pressure", {"at_s": 101.0, "wall_s": 1001.0, "stalled_us": 300_000}),
        ("swap", {"at_s": 101.0, "wall_s": 1001.0, "swapped_pages": 1}),
        ("frequency", {"at_s": 101.0, "wall_s": 1001.0, "khz": 2_000_000}),
    ],
)
def test_what_disturbed_a_run_is_told_by_its_code(code: str, after: dict[str, float]) -> None:
    names = ("steal_ticks", "busy_ticks", "all_ticks", "stalled_us", "swapped_pages", "running", "ours_s")
    zero = {**dict.fromkeys(names, 0.0), "khz": 3_000_000}
    before = _reading(**zero)
    quiet = before._replace(at_s=101.0, wall_s=1001.0)
    assert noise.warnings(before, quiet, 2) == ()
    assert noise.warnings(before, before._replace(**after), 2) == (code,)  # type: ignore[arg-type]
    assert code in noise.WARNINGS


def test_more_wishes_than_cores_are_told_as_load() -> None:
    before = _reading(running=5.0)
    assert "load" in noise.warnings(before, before, 2)
