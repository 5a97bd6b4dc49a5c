"""A scheduler and three workers on one machine: one is killed in a cell, the scheduler is restarted."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.core import sample
from bench.core.sample import Sample

pytest.importorskip("distributed")
RUNS = 12


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _started(*words: object, **env: str) -> subprocess.Popen[str]:
    argv, pipe = [sys.executable, "-m", *map(str, words)], subprocess.PIPE
    environ = {**os.environ, **env}
    return subprocess.Popen(
        argv, stdout=subprocess.DEVNULL, stderr=pipe, text=True, env=environ, start_new_session=True
    )


def _ended(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
    process.communicate(timeout=20)


class Cluster:
    """Scheduler and workers, each a process group of its own."""

    def __init__(self) -> None:
        self.port = _free_port()
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.scheduler = self.scheduled()
        self.workers = [self.worker(f"host-{letter}") for letter in "abc"]

    def scheduled(self) -> subprocess.Popen[str]:
        words = (
            "distributed.cli.dask_scheduler",
            "--host",
            "127.0.0.1",
            "--port",
            self.port,
            "--no-dashboard",
        )
        return _started(*words)

    def worker(self, name: str) -> subprocess.Popen[str]:
        return _started("cli.main", "bench", "worker", self.address, "--name", name, "--give-up", 60)

    def run(self, plan: Path, out: Path) -> subprocess.Popen[str]:
        return _started("cli.main", "bench", "run", plan, "--out", out, "--cluster", self.address)

    def close(self) -> None:
        for process in (*self.workers, self.scheduler):
            _ended(process)


@pytest.fixture
def cluster(home: Path) -> Iterator[Cluster]:
    made = Cluster()
    yield made
    made.close()


def _plan(folder: Path, sleeps: bool = True) -> Path:
    path = folder / "plan.toml"
    params = f"median_s = 0.15, sigma = 0.05, sleep = {str(sleeps).lower()}"
    path.write_text(
        'name = "cluster"\n[[groups]]\nexperiment = "start"\nmode = "command"\nimage = "none"\n'
        f'targets = ["fake", "fake-b"]\nruns = {RUNS}\nparams = {{ {params} }}\n'
    )
    return path


def _until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    until_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until_s, "it did not happen"
        time.sleep(0.02)


def _lines(out: Path) -> int:
    path = out / "results.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _content(samples: tuple[Sample, ...]) -> Counter[tuple[object, ...]]:
    """What has to be equal wherever it was measured: which runs there are, and (seeded) what they gave."""
    timed = [one for one in samples if not one.warmup]
    return Counter((one.cell, one.block, one.order, one.status, one.edges_ns["t8"]) for one in timed)


def _finished(process: subprocess.Popen[str]) -> None:
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "Traceback" not in err, err


@pytest.mark.slow
def test_the_results_equal_a_single_hosts_in_content_and_the_engine_costs_little(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = _plan(tmp_path)
    _finished(cluster.run(plan, tmp_path / "many"))
    _finished(_started("cli.main", "bench", "run", plan, "--out", tmp_path / "one"))
    many, one = (sample.load(tmp_path / name).samples for name in ("many", "one"))
    assert _content(many) == _content(one)
    assert set(_content(many).values()) == {1}
    assert len({found.host["id"] for found in many}) == 3
    for block in range(RUNS):  # what is paired was on one host
        assert len({found.host["id"] for found in many if found.block == block}) == 1
    campaign = json.loads((tmp_path / "many" / "campaign.json").read_text())
    engine_s = statistics.median(campaign["engine_s"]) / 2  # a block has two cells
    with capsys.disabled():
        print(f"\nthe engine costs {engine_s * 1000:.1f} ms a cell")
    assert engine_s <= 0.05
    assert set(campaign["hosts"]) == {"host-a", "host-b", "host-c"}


@pytest.mark.slow
def test_a_host_killed_in_a_cell_loses_nothing_and_counts_once(cluster: Cluster, tmp_path: Path) -> None:
    process = cluster.run(_plan(tmp_path), tmp_path / "out")
    _until(lambda: _lines(tmp_path / "out") >= 6)
    cluster.workers[0].kill()  # with SIGKILL, while its agent measures; the agent ends by itself
    _finished(process)
    counts = _content(sample.load(tmp_path / "out").samples)
    assert set(counts.values()) == {1}
    assert len(counts) == 2 * RUNS


@pytest.mark.slow
def test_a_scheduler_that_is_restarted_costs_time_and_no_sample(cluster: Cluster, tmp_path: Path) -> None:
    process = cluster.run(_plan(tmp_path), tmp_path / "out")
    _until(lambda: _lines(tmp_path / "out") >= 6)
    _ended(cluster.scheduler, signal.SIGKILL)
    cluster.scheduler = cluster.scheduled()
    _finished(process)
    counts = _content(sample.load(tmp_path / "out").samples)
    assert set(counts.values()) == {1}
    assert len(counts) == 2 * RUNS
