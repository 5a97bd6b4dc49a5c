"""What is printed and exported of samples."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from bench.core import compare, export, history, summary, table
from bench.core.progress import Progress
from bench.core.sample import Sample
from bench.core.schedule import Turn
from bench.core.target import Cell


def _sample(target: str, block: int, **changed: Any) -> Sample:
    fields = {"status": "ok", "edges_ns": {"t0": 0, "t8": 1_000_000 * (block + 1)}, **changed}
    mode = fields.pop("mode", "command")
    return Sample("c", "sha256:1", "start", f"start/{mode}/tiny/{target}", target, "tiny", mode, block, block,
                  block < 0, **fields)  # fmt: skip


def _starts() -> list[Sample]:
    samples = [_sample("ct", block) for block in range(-1, 5)]
    samples += [_sample("vm", block, edges_ns={"t0": 0, "t8": 7_000_000 * (block + 1)}, accelerator="tcg")
                for block in range(5)]  # fmt: skip
    samples.append(_sample("docker", 0, status="skipped", error="docker is not installed", edges_ns={}))
    return [
        *samples,
        _sample("vm", 9, status="timeout", error="it had not ended", edges_ns={}, accelerator="tcg"),
    ]


def test_rows_leave_warm_up_out_count_failures_and_pair_by_block() -> None:
    rows = {row.target: row for row in summary.rows(_starts())}
    assert (rows["ct"].n, rows["ct"].median.estimate) == (5, 0.003)
    assert (rows["vm"].n, rows["vm"].bad) == (5, 1)
    assert rows["vm"].ratio == pytest.approx((7.0, 7.0, 7.0))
    assert (rows["docker"].n, rows["docker"].why) == (0, "docker is not installed")
    assert list(rows) == ["ct", "vm", "docker"]


def test_a_number_stands_on_the_runs_that_have_it_and_a_ramps_steps_are_none() -> None:
    ramp = [
        _sample("ct", 0, mode="workload", values={"instances": n, "start_of_this_s": n}) for n in (1.0, 2.0)
    ]
    end = _sample("ct", 0, mode="workload", values={"reached_instances": 2.0})
    other = _sample("vm", 0, mode="workload", values={"reached_instances": 1.0})
    found = {(row.target, row.what): row.n for row in summary.rows([*ramp, end, other])}
    assert found == {
        ("ct", "start_of_this_s"): 2,
        ("ct", "reached_instances"): 1,
        ("vm", "reached_instances"): 1,
    }


def test_the_slope_is_memory_an_instance() -> None:
    points = [_sample("ct", 0, mode="memory", edges_ns={},
                      values={"instances": n, "mem_available_drop_bytes": 1e6 * n + 5e6})
              for n in (1.0, 2.0, 4.0, 8.0)]  # fmt: skip
    (row,) = summary.rows(points)
    assert row.what == "slope_bytes"
    assert row.median.estimate == pytest.approx(1e6)


def test_the_table_fits_80_columns_and_says_why_a_target_is_missing() -> None:
    values = {
        "pss_bytes": 2e6,
        "rss_bytes": 3e6,
        "uss_bytes": 1e6,
        "guest_used_bytes": 5e7,
        "configured_bytes": 3e8,
    }
    memory = [_sample("ct", 0, mode="memory", values=values)]
    long = [_sample("vm-libvirt", 0, status="failed", error="x" * 200, edges_ns={})]
    text = table.to_table(summary.rows([*_starts(), *memory, *long]))
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "docker is not installed" in text
    assert "1.9 MiB" in text


def test_what_disturbed_the_runs_is_told_with_its_count() -> None:
    samples = [
        _sample("ct", 0, warnings=("others", "load")),
        _sample("ct", 1, warnings=("others",)),
        *_starts()[-2:],
    ]
    text = table.disturbed(samples)
    assert max(map(len, text.splitlines())) <= 80
    told = " ".join(text.split())
    assert "2 of 3 runs: others: other processes used" in told  # the skipped one was no run
    assert "1 of 3 runs: load:" in told
    assert table.disturbed(_starts()) == ""


def test_csv_has_one_row_a_sample_with_every_value_in_a_column() -> None:
    samples = [*_starts(), _sample("ct", 0, mode="memory", values={"pss_bytes": 2.0})]
    rows = list(csv.DictReader(io.StringIO(export.to_csv(samples))))
    assert len(rows) == len(samples)
    assert rows[-1]["pss_bytes"] == "2.0"
    assert rows[1]["t8_ns"] == "1000000"


def test_json_and_markdown_hold_no_nan() -> None:
    rows = summary.rows([_sample("ct", 0), *_starts()[-2:]])
    assert json.loads(export.to_json(rows))["rows"][0]["median"]["low"] is None
    assert "nan" not in export.to_markdown(rows, {})


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _progress(out: io.StringIO) -> tuple[Progress, list[float]]:
    now = [0.0]
    made = Progress(out, clock=lambda: now[0])
    made.begin({"start/command/tiny/ct": 3, "start/command/tiny/vm": 2}, {"start/command/tiny/vm": 10.0})
    return made, now


def test_the_estimate_learns_from_what_was_measured() -> None:
    made, now = _progress(io.StringIO())
    assert made.left_s() == 3 * 1.0 + 2 * 10.0
    now[0] = 4.0
    made.done(_sample("ct", 0), 4.0)
    assert made.left_s() == 2 * 4.0 + 2 * 10.0


def test_without_a_terminal_progress_is_plain_lines_now_and_then() -> None:
    out = io.StringIO()
    made, now = _progress(out)
    made.done(_sample("ct", 0), 1.0)
    assert out.getvalue() == ""
    now[0] = 11.0
    made.done(_sample("ct", 1), 1.0)
    assert out.getvalue() == "2/5  0:21 left  start/command/tiny/ct 2.00 ms\n"


def test_on_a_terminal_one_line_is_drawn_over_and_cleared() -> None:
    out = _Terminal()
    made, _ = _progress(out)
    made.turn(Turn(Cell("start", "command", "tiny", "ct"), 0, 0))
    made.done(_sample("ct", 0), 1.0)
    made.end()
    assert out.getvalue().count("\r\x1b[K") == 3
    assert "\n" not in out.getvalue()
    assert "1/5" in out.getvalue()


def test_the_line_on_a_terminal_has_target_and_last_value_however_long_the_group_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = _Terminal()
    made, _ = _progress(out)
    made.done(_sample("vm-libvirt", 0), 1.0)
    made.turn(Turn(Cell("start", "command", "tiny", "ct", params=(("network", "b" * 90),)), 1, 0))
    line = out.getvalue().rpartition("\r\x1b[K")[2]
    assert "left  ct 2  (last: vm-libvirt 1.00 ms)" in line
    assert len(line) < 80


@pytest.mark.parametrize(("runs", "said"), [(3, "too few"), (4, "different")])
def test_so_few_runs_that_no_ranks_can_differ_are_told_as_such(runs: int, said: str) -> None:
    """Three and three give p = 0.1 at best: ten times as long is no `undecided` difference."""
    first, second = ({"cell": [scale + n / 100 for n in range(runs)]} for scale in (1.0, 10.0))
    (verdict,) = compare.compared(first, second)
    assert verdict.words == said
    assert ("6 pairs" in compare.to_table([verdict])) == (said == "too few")


@pytest.mark.parametrize(("runs", "said"), [(5, "too few"), (6, "different")])
def test_so_few_pairs_that_no_ranks_can_differ_are_told_as_such(runs: int, said: str) -> None:
    samples = [
        _sample(target, block, edges_ns={"t0": 0, "t8": int(1e9 * (seconds + block / 100))})
        for block in range(runs)
        for target, seconds in (("ct", 1.0), ("vm", 10.0))
    ]
    (verdict,) = compare.paired_groups(samples, "ct", "vm")
    assert verdict.words == said


def test_odd_and_even_blocks_of_one_run_are_compared_with_what_could_be_seen() -> None:
    samples = [_sample("ct", block, edges_ns={"t0": 0, "t8": 1_000_000 + block % 5}) for block in range(20)]
    odd, even = compare.odd_and_even(samples)
    (verdict,) = compare.compared(compare.by_cell(even), compare.by_cell(odd))
    assert verdict.words == "equivalent"
    assert verdict.n == (10, 10)
    assert verdict.detectable < 0.001
    assert "equivalent" in compare.to_table([verdict])


def test_a_real_difference_between_two_files_is_found() -> None:
    first = [_sample("ct", block, edges_ns={"t0": 0, "t8": 1_000_000 + block}) for block in range(10)]
    second = [_sample("ct", block, edges_ns={"t0": 0, "t8": 1_200_000 + block}) for block in range(10)]
    (verdict,) = compare.compared(compare.by_cell(first), compare.by_cell(second))
    assert verdict.words == "different"
    assert verdict.ratio.estimate == pytest.approx(1.2, abs=0.001)


def test_history_is_oldest_first_and_fits_80_columns() -> None:
    def result(began_unix_s: float, seconds: float) -> list[Sample]:
        edges = {"t0": 0, "t8": int(seconds * 1e9)}
        return [
            _sample(target, 0, edges_ns=edges, began_unix_s=began_unix_s, versions={"vmm": "1"})
            for target in ("ct", "a-target-of-a-rather-long-name")
        ]

    results = {"new": result(2e9, 0.03), **{f"old{n}": result(1e9 + n, 0.01) for n in range(6)}}
    text = history.to_text(results)
    lines = text.splitlines()
    assert lines[0].endswith("old0")
    assert lines[6].endswith("new")
    assert all(len(line) <= 80 for line in lines)
    assert text.count("x3") == 2


def test_rates_have_units() -> None:
    assert export.value_text(5.03e9, "received_bits_per_second") == "5.03 Gbit/s"
    assert export.value_text(634 * 2**20, "fio_bytes_per_second") == "634 MiB/s"
    assert export.value_text(31_400, "fio_ops_per_second") == "31.4 k/s"
