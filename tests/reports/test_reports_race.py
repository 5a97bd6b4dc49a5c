"""vmm race: lanes live from the edges of a running start, ordinary samples, and an animation to keep."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import synthetic_results as synthetic
from capabilities import need
from headless_chromium import Chromium

from bench.core import worker
from bench.core.sample import from_line, load
from bench.core.schedule import Turn
from bench.core.target import Cell, Parts
from cli import main as front
from cli.race import Course, racers
from host.edges import Edges
from reports.figures.race import lanes_of, slowdown
from reports.gathered import groups
from reports.terminal_race import Lane, drawn

VMM = Path(sys.executable).with_name("vmm")


def raced(tmp_path: Path) -> Path:
    """A race in a process of its own: a campaign ends every child that it finds, a browser of ours too."""
    out = tmp_path / "race"
    words = [
        "race",
        "any",
        "--targets",
        "fake,fake-b",
        "--runs",
        "3",
        "--out",
        out,
        "--record",
        tmp_path / "r.svg",
    ]
    ran = subprocess.run([VMM, *words], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    (tmp_path / "told").write_text(ran.stdout)
    return out


def test_a_race_leaves_ordinary_samples_and_an_animation(tmp_path: Path, home: Path) -> None:
    found = load(raced(tmp_path))
    assert found.notes == ()
    assert {one.target for one in found.samples} == {"fake", "fake-b"}
    assert sum(not one.warmup for one in found.samples) == 6
    told = (tmp_path / "told").read_text().splitlines()
    assert told[0].startswith("1. ")
    assert told[1].startswith("2. ")
    svg = (tmp_path / "r.svg").read_text()
    assert svg.startswith("<svg xmlns=")
    assert svg.count('class="phase grow') >= 2
    assert "<script" not in svg


def test_edges_reach_the_lane_while_the_run_goes_on(home: Path) -> None:
    """A worker marks t2, then waits; the lane must know it before the run has ended."""
    course = Course(("ct",))
    cell = Cell("start", "command", "any", "ct")

    def measure(target: object, cell: Cell) -> Parts:
        edges = Edges()
        edges.mark("t0")
        edges.mark("t2")
        time.sleep(0.6)
        edges.mark("t8")
        return Parts(edges_ns=edges.since_ns())

    seen: list[set[str]] = []
    with course.shown():
        course.turn(Turn(cell, 0, 0))
        watched = course.watched(measure)
        began = time.monotonic()

        def job() -> Parts:
            return watched(None, cell)  # type: ignore[arg-type,return-value]

        for _ in worker.runs(job, 1, 10):
            pass
        assert time.monotonic() - began >= 0.6
        deadline = time.monotonic() + 2
        while "t8" not in course.lanes["ct"].edges_ns and time.monotonic() < deadline:
            time.sleep(0.02)
        seen.append(set(course.lanes["ct"].edges_ns))
    assert seen[-1] >= {"t0", "t2", "t8"}
    edges = course.lanes["ct"].edges_ns
    assert edges["t8"] - edges["t2"] >= 0.55e9


def test_who_watches_cannot_stop_a_race(home: Path) -> None:
    """Nobody listens: far more stamps than a socket holds must not block."""
    course = Course(("ct",))
    began = time.monotonic()
    for count in range(5000):
        course._tell("t2", count)
    assert time.monotonic() - began < 5
    course._ear.close()


def test_the_lanes_show_phases_in_proportion() -> None:
    lanes = [
        Lane("ct", {"t0": 0, "t2": 4_000_000, "t8": 10_000_000}),
        Lane("vm", {"t0": 0, "t2": 10**8, "t8": 10**9}),
    ]
    text = drawn(lanes, 100, 0).plain.splitlines()
    vm = next(line for line in text if line.strip().startswith("vm"))
    ct = next(line for line in text if line.strip().startswith("ct"))
    assert vm.count("█") > 60
    assert ct.count("█") + ct.count("▏") == 1
    assert "1.00 s" in vm
    assert "10.0 ms" in ct


def test_a_film_lasts_three_to_twelve_seconds() -> None:
    for median_s in (0.0001, 1.0, 7.0, 300.0):
        lines = list(
            synthetic.starts(random.Random(1), "command", "tiny", {"ct": median_s / 3, "vm": median_s}, 5)
        )
        lanes = lanes_of(groups([from_line(line) for line in lines], ["command"])[0])
        film_s = max(one.reply_s for one in lanes) * slowdown(lanes)
        assert 2.99 <= film_s <= 12.01


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    need("chromium")
    with Chromium(tmp_path_factory.mktemp("profile")) as chromium:
        yield chromium


def test_the_recorded_race_moves_in_a_browser(browser: Chromium, tmp_path: Path, home: Path) -> None:
    raced(tmp_path)
    browser.view(1000)
    browser.open(tmp_path / "r.svg")
    assert browser.complaints() == []
    running = browser.value("document.getAnimations().length")
    rects = len(re.findall('class="phase grow', (tmp_path / "r.svg").read_text()))
    assert running >= rects >= 2


def test_short_names_race_once() -> None:
    assert racers("ct,vm,clone,vm-clone,docker") == ["ct", "vm", "vm-clone", "docker"]


def test_an_unknown_target_and_a_race_without_runs_are_usage_errors(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert front.main(["race", "any", "--targets", "nobody", "--out", str(tmp_path)]) == 2
    assert "nobody" in capsys.readouterr().err
    assert front.main(["race", "any", "--targets", "fake", "--runs", "0", "--out", str(tmp_path)]) == 2
