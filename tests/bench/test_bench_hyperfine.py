"""The time that we report of a static `true`, and the time that we take for it, against `hyperfine -N`."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from capabilities import need

from bench.core.sample import load, times_s

SAMPLES = 1000
# The first runs of a fresh worker are slower, and hyperfine takes all of its in one process.
BATCH = 250
ROUNDS = 5


def _static_true(folder: Path) -> Path:
    source = folder / "true.c"
    source.write_text("int main(void) { return 0; }\n")
    subprocess.run(["gcc", "-static", "-O2", "-o", folder / "true", source], check=True, timeout=60)
    return folder / "true"


def _hyperfine(program: Path, folder: Path) -> tuple[float, float]:
    """Median seconds and campaign seconds."""
    out = folder / "hyperfine.json"
    argv = [
        "hyperfine",
        "-N",
        "--runs",
        str(SAMPLES),
        "--warmup",
        "10",
        "--export-json",
        str(out),
        str(program),
    ]
    began_s = time.monotonic()
    subprocess.run(argv, capture_output=True, check=True, timeout=120)
    return json.loads(out.read_text())["results"][0]["median"], time.monotonic() - began_s


def _ours(program: Path, folder: Path, number: int) -> tuple[float, float]:
    plan = folder / "plan.toml"
    plan.write_text(
        'name = "true"\n[[groups]]\nexperiment = "start"\nmode = "command"\nimage = "host"\n'
        f'targets = ["exec"]\nruns = {SAMPLES // BATCH}\nbatch = {BATCH}\nwarmup = 1\n'
        f'command = ["{program}"]\n'
    )
    out = folder / f"out-{number}"
    began_s = time.monotonic()
    argv = [sys.executable, "-m", "cli.main", "bench", "run", str(plan), "--out", str(out)]
    subprocess.run(argv, capture_output=True, check=True, timeout=120)
    return statistics.median(times_s(load(out).samples)), time.monotonic() - began_s


def _pair(program: Path, folder: Path, number: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """hyperfine's and ours, one after the other; who goes first alternates, so that drift favours neither."""
    if number % 2:
        ours = _ours(program, folder, number)
        return _hyperfine(program, folder), ours
    theirs = _hyperfine(program, folder)
    return theirs, _ours(program, folder, number)


@pytest.mark.slow
@pytest.mark.timing_sensitive
def test_the_time_of_a_static_true_is_hyperfines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    need("hyperfine")
    program = _static_true(tmp_path)
    pairs = [_pair(program, tmp_path, number) for number in range(ROUNDS)]
    reported = statistics.median(ours[0] / theirs[0] for theirs, ours in pairs)
    campaign = statistics.median(ours[1] / theirs[1] for theirs, ours in pairs)
    with capsys.disabled():
        each = " ".join(f"{ours[0] / theirs[0]:.3f}" for theirs, ours in pairs)
        print(f"\n{SAMPLES} samples: reported {reported:.3f}x of hyperfine -N ({each})", end=", ")
        print(f"campaign {campaign:.2f}x")
    assert reported <= 1.05
    assert campaign <= 3
