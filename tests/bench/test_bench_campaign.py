"""Campaigns with the fake target: every fault is a sample, none is lost, and nothing stays behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from capabilities import need

from bench.core import sample
from bench.core.sample import Sample


def _plan(folder: Path, runs: int = 4, **params: Any) -> Path:
    """A plan file for the two fakes."""
    values = {"median_s": 0.002, **params}
    told = ", ".join(f"{name} = {json.dumps(value)}" for name, value in values.items())
    path = folder / "plan.toml"
    path.write_text(
        f'name = "faults"\n[[groups]]\nexperiment = "start"\nmode = "command"\nimage = "none"\n'
        f'targets = ["fake", "fake-b"]\nruns = {runs}\ndeadline_s = 0.5\nparams = {{ {told} }}\n'
    )
    return path


def _bench(
    *words: object, env: dict[str, str] | None = None, start_new_session: bool = False
) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "cli.main", "bench", *map(str, words)]
    environ = {**os.environ, **(env or {})}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        argv, stdout=pipe, stderr=pipe, text=True, env=environ, start_new_session=start_new_session
    )


def _ran(
    tmp_path: Path, status: int = 0, env: dict[str, str] | None = None, **params: Any
) -> tuple[Sample, ...]:
    process = _bench("run", _plan(tmp_path, **params), "--out", tmp_path / "out", env=env)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    assert "Traceback" not in err
    return sample.load(tmp_path / "out").samples


@pytest.fixture(autouse=True)
def _own_home(home: Path) -> None:
    """Every campaign here has a home of its own."""


def test_a_campaign_writes_every_sample_its_tables_and_its_facts(tmp_path: Path) -> None:
    samples = _ran(tmp_path)
    assert Counter((one.target, one.warmup, one.status) for one in samples) == {
        ("fake", True, "ok"): 1, ("fake-b", True, "ok"): 1,
        ("fake", False, "ok"): 4, ("fake-b", False, "ok"): 4,
    }  # fmt: skip
    assert [one.order for one in samples] == list(range(10))
    out = tmp_path / "out"
    campaign = json.loads((out / "campaign.json").read_text())
    assert campaign["outcome"] == "complete"
    assert not [one for one in campaign["leaks"] if one["sure"]]
    assert {"cpu", "mitigations", "memory", "kernel", "cgroup"} <= set(campaign["facts"])
    assert campaign["overhead"]["worker_s"] > 0
    assert len((out / "results.csv").read_text().splitlines()) == 11
    assert campaign["plan_hash"] in (out / "summary.md").read_text()


def test_a_start_that_is_hardly_longer_than_hearing_of_it_is_marked(tmp_path: Path) -> None:
    samples = _ran(tmp_path, runs=2, median_s=1e-6)
    assert {one.warnings.count("short") for one in samples if one.status == "ok"} == {1}


def test_a_hang_is_a_timeout(tmp_path: Path) -> None:
    samples = _ran(tmp_path, 1, hang=1, runs=1)
    assert {one.status for one in samples} == {"timeout"}
    assert "0.5 s" in (samples[0].error or "")


@pytest.mark.parametrize("fault", ["crash", "garbage", "fail"])
def test_a_target_that_fails_sometimes_keeps_its_good_runs(tmp_path: Path, fault: str) -> None:
    samples = _ran(tmp_path, runs=6, **{fault: 0.5})
    assert len(samples) == 14
    assert {one.status for one in samples} == {"ok", "failed"}


def test_when_all_runs_fail_the_campaign_says_so(tmp_path: Path) -> None:
    assert {one.status for one in _ran(tmp_path, 1, fail=1, runs=1)} == {"failed"}


def test_a_leak_is_found_told_and_ended(tmp_path: Path) -> None:
    samples = _ran(tmp_path, leak=1, runs=1)
    assert all("leak" in one.warnings for one in samples)
    leaked = json.loads((tmp_path / "out" / "campaign.json").read_text())["leaks"]
    leaked = [one for one in leaked if one["sure"]]  # a neighbour's cgroup may have appeared
    assert len(leaked) == 4
    assert all("sleep 3600" in one["what"] for one in leaked)
    assert not any(os.path.exists(f"/proc/{one['what'].split()[0]}") for one in leaked)


@pytest.mark.parametrize(
    ("kind", "namespaces", "what"),
    [("mount", "-m", "/vmm-fake-"), ("link", "-n", "veth"), ("cgroup", "-m", "/vmm-fake-"),
     ("file", "-m", "instances/vmm-fake-")],
)  # fmt: skip
def test_what_a_run_leaves_is_found_whatever_it_is(
    tmp_path: Path, kind: str, namespaces: str, what: str
) -> None:
    need("root", "cgroup")
    plan = _plan(tmp_path, leak=1, leaks=kind, runs=1)
    out = tmp_path / "out"
    argv = ["unshare", namespaces, sys.executable, "-m", "cli.main", "bench", "run", plan, "--out", out]
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    subprocess.run([*map(str, argv)], capture_output=True, timeout=60, check=True, env=env)
    leaked = [one for one in json.loads((out / "campaign.json").read_text())["leaks"] if one["kind"] == kind]
    mine = [one["what"] for one in leaked if what in one["what"] or kind == "link"]
    if kind == "cgroup":
        for folder in mine:
            os.rmdir(folder)
    # a warm-up and one run of two targets; a veth has two ends
    assert len(mine) == (8 if kind == "link" else 4)
    assert {one["cell"].rpartition("/")[2] for one in leaked} == {"fake", "fake-b"}


def test_a_value_that_is_no_number_fails_its_run_and_is_never_written(tmp_path: Path) -> None:
    samples = _ran(tmp_path, 1, nan=1, runs=1)
    assert {(one.status, one.error) for one in samples} == {("failed", "the target told garbage: odd_s")}
    assert "NaN" not in (tmp_path / "out" / "results.jsonl").read_text()


def test_zero_durations_and_one_sample_only_are_reported_without_a_fault(tmp_path: Path) -> None:
    samples = _ran(tmp_path, zero=1, runs=1)
    assert {one.edges_ns["t8"] for one in samples} == {0}
    text = (tmp_path / "out" / "summary.md").read_text()
    assert "nan" not in text.lower()


def test_a_missing_target_is_a_sample_that_says_why(tmp_path: Path) -> None:
    samples = _ran(tmp_path, runs=1, env={"VMM_FAKE_MISSING": "fake-b"})
    skipped = [one for one in samples if one.status == "skipped"]
    assert [one.target for one in skipped] == ["fake-b"]
    assert "missing" in (skipped[0].error or "")


def _begun(tmp_path: Path, runs: int = 16) -> tuple[subprocess.Popen[str], Path]:
    """A campaign that has written some samples and sleeps through the next."""
    out = tmp_path / "out"
    process = _bench(
        "run", _plan(tmp_path, runs=runs, median_s=0.05, sleep=True), "--out", out, start_new_session=True
    )
    until_s = time.monotonic() + 20
    while not (out / "results.jsonl").exists() or (out / "results.jsonl").read_bytes().count(b"\n") < 5:
        assert time.monotonic() < until_s
        time.sleep(0.02)
    return process, out


def _resumed(out: Path) -> str:
    process = _bench("resume", out)
    told = process.communicate(timeout=60)
    assert process.returncode == 0, told
    return told[1]


def _whole(out: Path, runs: int = 16) -> bool:
    counts = Counter((one.cell, one.block) for one in sample.load(out).samples)
    return set(counts.values()) == {1} and len(counts) == 2 * (runs + 1)


def _nobody_left(process: subprocess.Popen[str]) -> bool:
    """No process of the campaign's session is alive."""
    for _ in range(100):
        done = subprocess.run(
            ["ps", "-s", str(process.pid), "-o", "stat="], capture_output=True, text=True, check=False
        )
        if not [word for word in done.stdout.split() if not word.startswith("Z")]:
            return True
        time.sleep(0.05)
    return False


def test_what_a_target_cannot_do_is_asked_once_and_told_for_every_block(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(
        'name = "able"\n[[groups]]\nexperiment = "x"\nmode = "workload"\nimage = "none"\n'
        'targets = ["fake"]\nruns = 3\nwarmup = 0\n'
    )
    code = f"""
from pathlib import Path
from bench.core import plan, workload
from bench.core.campaign import Campaign
from bench.core.store import Store
from bench.targets.fake import Fake

def measure(target, cell):
    with open("{tmp_path}/asked", "a") as file:
        file.write("x")
    return workload.skipped("it cannot")

with Store(Path("{tmp_path}/out")) as store:
    made = plan.load(Path("{tmp_path}/plan.toml"))
    Campaign("able", made, store, {{"fake": Fake()}}, lambda cell: measure).run()
"""
    subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=True)
    found = sample.load(tmp_path / "out").samples
    assert [(one.block, one.status, one.error) for one in found] == [
        (number, "skipped", "it cannot") for number in range(3)
    ]
    assert (tmp_path / "asked").read_text() == "x"


@pytest.mark.parametrize(
    ("condition", "status", "words"),
    [("fake.start.median > 1.1 * 0.000001", 1, "fake.start.median > 1.1 * 0.000001: 0.00"),
     ("fake.start.median > 3600", 0, ""), ("fake.start.median >", 2, "cannot read the condition")],
)  # fmt: skip
def test_a_condition_is_the_exit_status(tmp_path: Path, condition: str, status: int, words: str) -> None:
    out = tmp_path / "out"
    process = _bench("run", _plan(tmp_path, runs=1), "--out", out, "--fail-if", condition)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    assert words in err
    assert out.exists() == (status != 2)  # a typo costs no measurement


def test_ctrl_c_keeps_every_sample_and_resume_goes_on(tmp_path: Path) -> None:
    process, out = _begun(tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "resume" in err
    assert "Traceback" not in err
    assert _nobody_left(process)
    kept = len(sample.load(out).samples)
    assert 5 <= kept < 34
    assert f"{kept} runs are recorded" in _resumed(out)
    assert _whole(out)


def test_kill_9_keeps_every_sample_and_leaves_no_process(tmp_path: Path) -> None:
    process, out = _begun(tmp_path)
    process.kill()
    process.communicate()
    assert _nobody_left(process)
    _resumed(out)
    assert _whole(out)


def test_a_power_cut_drops_the_cut_record_and_resume_does_it_again(tmp_path: Path) -> None:
    process, out = _begun(tmp_path)
    process.kill()
    process.communicate()
    results = out / "results.jsonl"
    os.truncate(results, results.stat().st_size - 40)
    assert "cut" in _resumed(out)
    assert _whole(out)


def test_a_resumed_campaign_has_the_order_of_an_undisturbed_one(tmp_path: Path) -> None:
    process, out = _begun(tmp_path)
    process.kill()
    process.communicate()
    _resumed(out)
    undisturbed = _bench("run", tmp_path / "plan.toml", "--out", tmp_path / "whole")
    undisturbed.communicate(timeout=60)
    first, second = (
        [(one.cell, one.block, one.order) for one in sample.load(where).samples]
        for where in (out, tmp_path / "whole")
    )
    assert first == second


def test_a_plan_changed_behind_our_back_is_not_resumed(tmp_path: Path) -> None:
    process, out = _begun(tmp_path)
    process.kill()
    process.communicate()
    described = json.loads((out / "campaign.json").read_text())
    described["plan"]["groups"][0]["runs"] = 2
    (out / "campaign.json").write_text(json.dumps(described))
    refused = _bench("resume", out)
    assert "cannot resume" in refused.communicate(timeout=20)[1]
    assert refused.returncode == 2


def test_a_second_run_sets_the_first_ones_results_aside(tmp_path: Path) -> None:
    first = _ran(tmp_path, runs=1)
    second = _ran(tmp_path, runs=1)
    aside = tmp_path / "out" / "earlier" / first[0].campaign
    assert sample.load(aside).samples == first
    assert second[0].campaign != first[0].campaign


def test_a_full_disk_ends_the_campaign_with_whole_records_and_a_hint(tmp_path: Path) -> None:
    need("root")
    script = (
        f"mount -t tmpfs -o size=256k none {tmp_path}/small && cd {os.getcwd()} && "
        f"{sys.executable} -m cli.main bench run {_plan(tmp_path, runs=400)} --out {tmp_path}/small/out; "
        f"status=$?; cp -r {tmp_path}/small/out {tmp_path}/kept; exit $status"
    )
    (tmp_path / "small").mkdir()
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert "hint: free space" in done.stderr
    found = sample.load(tmp_path / "kept")
    assert found.notes == ()
    assert len(found.samples) > 20


def test_a_worker_is_forked_from_a_campaign_without_numpy(tmp_path: Path) -> None:
    code = f"""
import sys
from bench.core import worker
from cli import main
runs, held = worker.runs, set()
def spied(*words):
    held.update({{"numpy", "scipy"}} & set(sys.modules))
    return runs(*words)
worker.runs = spied
status = main.main(["bench", "run", {str(_plan(tmp_path, runs=1))!r}, "--out", {str(tmp_path / "out")!r}])
print(status, held, "numpy" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "0 set() True"
