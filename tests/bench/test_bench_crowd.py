"""Many containers: whole commands at once, a crowd that is asked and removed, and what it leaves is told."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import leaks
import pytest
from capabilities import need

from bench import targets
from bench.core.target import Cell
from bench.experiments.reach_scale import measure as scale


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    need("root", "busybox", "guest-helper", "overlay", "cgroup")
    with tempfile.TemporaryDirectory(prefix="vmm-crowd-", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("VMM_HOME", f"{folder}/home")
        yield Path(folder, "home")
        leaks.forget(Path(folder, "home"))


def _cell(**params: str | int | bool) -> Cell:
    told = {"network": "none", **params}
    return Cell("reach-scale", "workload", "tiny", "vmm-run-ct", ("true",), tuple(told.items()))


def test_sixteen_at_once_and_a_crowd_of_three_leave_nothing(home: Path) -> None:
    target = targets.load(["vmm-run-ct"])["vmm-run-ct"]
    target.prepare(_cell())
    at_once = scale.measure(target, _cell(part="at-once", count=4, init=False))
    assert (at_once.status, at_once.error) == ("ok", None)
    assert at_once.values["starts_per_second"] == pytest.approx(1 / at_once.values["each_s"])
    crowd = scale.measure(target, _cell(part="crowd", count=3, reaper=True)).values
    wanted = {"supervisors": 1, "unanswered": 0, "left_cgroups": 0, "left_links": 0, "left_mounts": 0}
    assert {name: crowd[name] for name in wanted} == wanted
    assert crowd["last_over_first"] > 0


def test_a_command_that_fails_at_once_is_a_failed_sample(home: Path) -> None:
    target = targets.load(["vmm-run-ct"])["vmm-run-ct"]
    target.prepare(_cell())
    params = (("part", "at-once"), ("count", 2), ("network", "none"))
    cell = Cell("reach-scale", "workload", "tiny", "vmm-run-ct", ("false",), params)
    assert scale.measure(target, cell).status == "failed"


class Sloppy:
    """A crowd that answers every second time, and leaves a mount and a link."""

    removed = False

    def start(self, number: int) -> float:
        return 0.1 * (number + 1)

    def exec_argv(self, number: int) -> scale.Command:
        return ["true" if number % 2 else "false"], {"PATH": "/usr/bin:/bin"}

    def supervisors(self) -> int:
        return 2

    def traces(self) -> dict[str, int]:
        return {"mounts": 7 + self.removed, "links": 2 + self.removed, "cgroups": 0}

    def remove_all(self) -> float:
        self.removed = True
        return 1.5


def test_what_a_crowd_left_and_who_did_not_answer_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale.idle, "settled_available_bytes", lambda: 1 << 30)

    class Target:
        name = "sloppy"

        @contextmanager
        def crowd(self, cell: Cell) -> Iterator[Sloppy]:
            yield Sloppy()

    found = scale.measure(Target(), _cell(part="crowd", count=40)).values  # type: ignore[arg-type]
    assert (found["unanswered"], found["supervisors"], found["removed_s"]) == (20, 2, 1.5)
    assert (found["left_mounts"], found["left_links"], found["left_cgroups"], found["left"]) == (1, 1, 0, 2)
    assert found["last_over_first"] == pytest.approx(3.05 / 1.05)
