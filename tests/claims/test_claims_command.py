"""vmm claims on the command line: list, explain, a real run of probes on this host, judge, and bad input."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from bench.claims import front, probing
from bench.claims.register import Probe, claim_of, register
from bench.core.target import Cell, Parts
from cli import main as cli_main


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli_main.main(["claims", *words]) == 0
    return capsys.readouterr().out


def test_list_names_all_of_them(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = told(capsys, "list", "--out", str(tmp_path))
    assert [line.split()[0] for line in out.splitlines() if line.startswith("C")] == [
        f"C{n}" for n in range(1, 68)
    ]


def test_explain_tells_predicate_experiment_and_reason(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = told(capsys, "explain", "c28", "--out", str(tmp_path))
    for words in (
        "C28",
        "verdict: undecided",
        "a container cannot run a 32-bit program",
        "why it comes out so",
        "vmm claims run C28",
    ):
        assert words in out


def test_a_run_measures_judges_and_writes(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """C46 and C62 need neither image nor container: real probes, real verdicts."""
    out = told(capsys, "run", "C46", "C62", "C25", "--quick", "--out", str(tmp_path / "out"))
    assert "C46" in out
    record = json.loads((tmp_path / "out" / "verdicts.json").read_text())
    words = {one["claim"]["id"]: one["verdict"] for one in record["verdicts"]}
    assert words["C46"] in ("confirmed", "qualified", "undecided")
    assert words["C25"] == "documentary"
    again = told(capsys, "judge", str(tmp_path / "out"))
    assert "67 decided" in again or "of 67 decided" in again


def test_resume_takes_no_sample_twice(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    told(capsys, "run", "C62", "--quick", "--out", str(out))
    before = (out / "results.jsonl").read_bytes()
    told(capsys, "run", "C62", "--quick", "--resume", "--out", str(out))
    assert (out / "results.jsonl").read_bytes() == before


def test_dry_run_prints_the_plan_and_writes_nothing(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = told(capsys, "run", "--all", "--quick", "--dry-run", "--out", str(tmp_path / "none"))
    assert "C9.rebuild" in out
    assert not (tmp_path / "none").exists()


def test_the_quick_plan_of_all_claims_is_within_its_time() -> None:
    plan = probing.plan_of(register(), quick=True)
    assert sum(group.estimate_s() for group in plan.groups) <= 25 * 60


def test_no_claim_named_and_an_unknown_one_are_told(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli_main.main(["claims", "run"]) == 2
    assert "which claims" in capsys.readouterr().err
    assert cli_main.main(["claims", "explain", "C99"]) == 1
    assert "C99" in capsys.readouterr().err


def host_cell(script: str, deadline_s: float = 20) -> Cell:
    return Cell("C1.x", "workload", "tiny", "host", ("sh", "-c", script), (), deadline_s)


def test_a_probe_gives_the_numbers_that_it_prints() -> None:
    parts = probing.run_probe(
        front.Host(), host_cell("echo a 1; echo b_s 2.5e-3; echo words 3 more; echo Bad 4; echo c -7")
    )
    assert parts.status == "ok"
    assert parts.values == {"a": 1.0, "b_s": 0.0025, "c": -7.0}


@pytest.mark.parametrize(
    ("script", "status", "why"),
    [
        ("echo sorry >&2; exit 3", "failed", "ended with 3: sorry"),
        ("echo only words", "failed", "printed no number"),
        ("sleep 60", "timeout", "did not end within 1 s"),
    ],
)
def test_a_probe_that_goes_wrong_says_how(script: str, status: str, why: str) -> None:
    parts = probing.run_probe(front.Host(), host_cell(script, deadline_s=1))
    assert parts.status == status
    assert why in (parts.error or "")


def test_a_probe_leaves_neither_processes_nor_files() -> None:
    parts = probing.run_probe(
        front.Host(), host_cell("touch $SCRATCH/x; (sleep 54321 &) ; echo at 1; pwd >&2; sleep 0.1")
    )
    assert parts.status == "ok"
    assert subprocess.run(["pgrep", "-f", "sleep 54321"], capture_output=True, check=False).returncode == 1


def test_every_script_is_valid_shell() -> None:
    for claim in register():
        for probe in claim.probes:
            shell = subprocess.run(
                ["sh", "-n"], input=probe.script, capture_output=True, text=True, check=False
            )
            assert shell.returncode == 0, (claim.id, shell.stderr)


def test_every_probe_prints_what_its_predicates_read() -> None:
    for claim in register():
        for predicate in claim.predicates:
            for where in filter(None, (predicate.cell, predicate.base)):
                if where.probe:
                    script = claim.probe(where.probe).script
                    for name in predicate.value.replace("-", "/").split("/"):
                        assert f'echo "{name} ' in script, (claim.id, name)


def test_a_cell_needed_twice_is_planned_once_with_the_most_runs() -> None:
    both = probing.plan_of([claim_of("C3"), claim_of("C5")], quick=True)
    keys = [cell.key for group in both.groups for cell in group.cells()]
    assert len(keys) == len(set(keys))
    assert {cell.target for group in both.groups for cell in group.cells() if cell.image == "debian"} == {
        "ct",
        "vm",
    }


def test_own_experiments_are_left_to_their_code() -> None:
    find = probing.measure_of(lambda cell: lambda target, cell: Parts(values={"other": 1.0}))
    assert find(host_cell("")) is probing.run_probe
    other = replace(host_cell(""), experiment="start")
    assert find(other)(front.Host(), other).values == {"other": 1.0}  # type: ignore[union-attr]


def test_probe_defaults() -> None:
    assert Probe("x", "true", ("host",)).runs == 1
