"""Published tables: complete, honest about their source, and compared by ratio, order and slope only."""

from __future__ import annotations

import pytest

from bench import experiments, published
from bench.core import plan
from bench.core.sample import Sample


def _start(cell: str, seconds: float, **changed: object) -> Sample:
    experiment, mode, image, target = cell.split("/")
    return Sample("c", "h", experiment, cell, target, image, mode, 0, 0, False, "ok",
                  edges_ns={"t0": 0, "t8": int(seconds * 1e9)}, **changed)  # type: ignore[arg-type]  # fmt: skip


@pytest.mark.parametrize("table", published.tables(), ids=lambda table: table.id)
def test_every_table_says_where_it_is_from_and_how_it_came_about(table: published.Table) -> None:
    assert table.tag in published.TAGS
    assert all((table.title, table.source, table.unit, table.setup, table.n))
    assert bool(table.rows) != bool(table.series)
    for like in table.like:
        assert set(like.get("rows", {})) <= set(table.rows)
        assert like.get("base", next(iter(table.rows), "")) in {*table.rows, ""}


def test_every_cell_that_a_table_names_is_one_of_our_plans() -> None:
    plans = [*map(plan.load, experiments.plans().values())]
    known = {cell.key for one in plans for group in one.groups for cell in group.cells()}
    named = {
        cell.split(":")[0]
        for table in published.tables()
        for like in table.like
        for cell in (*like.get("rows", {}).values(), *filter(None, [like.get("series")]))
    }
    assert named <= known


def test_ratios_stand_beside_ratios_and_no_absolute_time_is_printed() -> None:
    samples = [_start("start/command/tiny/docker", 0.2), _start("start/command/tiny/vm", 2.0)]
    (one,) = published.compared(samples)
    assert one.table.id == "T5"
    assert one.ratios == (
        published.Beside("Firecracker, Alpine", pytest.approx(324 / 67.5), pytest.approx(10.0)),
    )
    assert one.tau == 1.0
    text = published.to_text([one])
    assert "67.5" not in text
    assert "ms" not in text.replace("setup", "").replace("stems", "")


def test_growth_is_compared_by_its_exponent() -> None:
    cell = next(like["series"] for table in published.tables() for like in table.like if "series" in like)
    experiment, mode, image, target = cell.split("/")
    samples = [
        Sample("c", "h", experiment, cell, target, image, mode, 0, 0, False, "ok",
               values={"instances": n, "start_of_this_s": 2 * n**0.5})
        for n in (1.0, 2.0, 4.0, 8.0)
    ]  # fmt: skip
    (one,) = published.compared(samples)
    assert one.our_slope == pytest.approx(0.5)
    assert dict(one.slopes)["m5d"] == pytest.approx(0.09, abs=0.01)
    assert dict(one.slopes)["Nehalem"] == pytest.approx(0.89, abs=0.02)
