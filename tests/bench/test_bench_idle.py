"""Idle instances weighed over N: what each point carries, and starts from an emptied page cache."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.core import idle
from bench.core.target import Cell, Parts
from bench.experiments.cold_start import measure as cold_start

_SLEEPING = ("230", "115")  # clock_nanosleep(2) of x86-64, of arm64
CELL = Cell("memory-slope", "memory", "any", "sleeper", params=(("instances", 4),))


class Sleeper:
    """An idle instance that is one sleeping process."""

    accelerator = None

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def pids(self) -> set[int]:
        return {self.pid}

    def cgroups(self) -> tuple[str, ...]:
        return ()

    def guest_values(self) -> dict[str, float]:
        return {}


class Sleepers:
    """A target whose instances are sleeping processes."""

    name = "sleeper"

    @contextmanager
    def hold(self, cell: Cell) -> Iterator[Sleeper]:
        process = subprocess.Popen(["sleep", "60"])
        try:
            while Path(f"/proc/{process.pid}/syscall").read_text().split()[0] not in _SLEEPING:
                time.sleep(0.005)  # until then it grows, page by page
            yield Sleeper(process.pid)
        finally:
            process.kill()
            process.wait()

    def run_once(self, cell: Cell) -> Parts:
        return Parts(edges_ns={"t0": 0, "t8": 1})


def test_each_point_of_a_slope_carries_its_start_and_the_kinds() -> None:
    points = idle.slope(Sleepers(), CELL)  # type: ignore[arg-type]
    assert [point.values["instances"] for point in points] == [1, 2, 4]
    assert all(0 < point.values["start_of_this_s"] < 10 for point in points)
    anonymous = [point.values["all_pss_anon_bytes"] for point in points]
    assert anonymous[0] > 0
    assert 1.5 < anonymous[1] / anonymous[0] < 2.5
    assert 3 < anonymous[2] / anonymous[0] < 5


def test_the_kinds_add_up_to_the_pss() -> None:
    """The kernel tells the three kinds beside their sum; a shared process is counted once."""
    with Sleepers().hold(CELL) as held:
        kinds = idle.by_backing([held, held])
        assert sum(kinds.values()) == pytest.approx(idle.processes(held.pids())["pss_bytes"], rel=0.02)


def test_a_cold_start_begins_after_the_cache_was_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = tmp_path / "drop_caches"
    monkeypatch.setattr(cold_start, "DROP_CACHES", asked)
    seen = []

    class Watching(Sleepers):
        def run_once(self, cell: Cell) -> Parts:
            seen.append(asked.read_text())
            return super().run_once(cell)

    parts = cold_start.measure(Watching(), CELL)  # type: ignore[arg-type]
    assert parts.status == "ok"
    assert seen == ["3", "3"]
    assert parts.values["warm_start_s"] == pytest.approx(1e-9)


def test_who_may_not_drop_the_cache_measures_no_warm_start_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cold_start, "DROP_CACHES", tmp_path / "gone" / "drop_caches")
    parts = cold_start.measure(Sleepers(), CELL)  # type: ignore[arg-type]
    assert parts.status == "skipped"
    assert "page cache" in str(parts.error)
