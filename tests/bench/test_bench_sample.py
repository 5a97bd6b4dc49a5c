"""results.jsonl: what is written is what is read, and what is wrong with a file is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.core import sample
from bench.core.sample import Sample
from bench.core.store import Store
from host.errors import BadData, InUse, NotFound

ONE = Sample("c", "sha256:1", "start", "start/command/tiny/ct", "ct", "tiny", "command", 0, 3, False, "ok",
             edges_ns={"t0": 0, "t8": 5}, values={"pss_bytes": 1.5}, warnings=("load",))  # fmt: skip


def _file(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "results.jsonl"
    path.write_text("".join(lines))
    return path


def test_a_sample_comes_back_as_it_was_written(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.append(ONE)
    assert sample.load(tmp_path) == sample.Results((ONE,))


def test_a_cut_last_line_is_dropped_and_told(tmp_path: Path) -> None:
    path = _file(tmp_path, ONE.to_json() + "\n", ONE.to_json()[:50])
    found = sample.load(path)
    assert found.samples == (ONE,)
    assert "cut" in found.notes[0]


def test_a_line_in_the_middle_that_is_no_json_is_an_error(tmp_path: Path) -> None:
    path = _file(tmp_path, ONE.to_json()[:50] + "\n", ONE.to_json() + "\n")
    with pytest.raises(BadData, match=r"results\.jsonl:1"):
        sample.load(path)


def test_a_line_edited_by_hand_is_told_with_its_number(tmp_path: Path) -> None:
    edited = ONE.to_json().replace('"t8":5', '"t8":4')
    found = sample.load(_file(tmp_path, ONE.to_json() + "\n", edited + "\n"))
    assert found.samples[1].edges_ns["t8"] == 4
    assert "edited" in found.notes[0]
    assert "line 2" in found.notes[0]


def test_schema_1_is_migrated_and_told(tmp_path: Path) -> None:
    line = {**ONE.to_line(), "schema_version": 1}
    del line["warnings"], line["checksum"]
    found = sample.load(_file(tmp_path, json.dumps(line) + "\n"))
    assert found.samples[0].warnings == ()
    assert "schema" in found.notes[0]


def test_a_newer_schema_is_refused_with_a_hint(tmp_path: Path) -> None:
    line = {**ONE.to_line(), "schema_version": 99}
    with pytest.raises(BadData, match="99") as caught:
        sample.load(_file(tmp_path, json.dumps(line) + "\n"))
    assert caught.value.hint


def test_values_that_are_no_finite_number_are_left_out_and_told(tmp_path: Path) -> None:
    line = {**ONE.to_line(), "values": {"a_s": float("nan"), "b_s": float("inf"), "c_s": 1.0}}
    line["checksum"] = sample.checksum(line)
    found = sample.load(_file(tmp_path, json.dumps(line) + "\n"))
    assert found.samples[0].values == {"c_s": 1.0}
    assert "a_s, b_s" in found.notes[0]


def test_nan_is_never_written() -> None:
    with pytest.raises(ValueError, match="JSON"):
        Sample(**{**vars(ONE), "values": {"a_s": float("nan")}}).to_json()


def test_no_results_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        sample.load(tmp_path)


def test_the_store_ends_the_file_after_its_last_whole_line(tmp_path: Path) -> None:
    _file(tmp_path, ONE.to_json() + "\n", '{"half')
    with Store(tmp_path) as store:
        assert store.dropped_bytes == len('{"half')
        store.append(ONE)
    assert sample.load(tmp_path) == sample.Results((ONE, ONE))


def test_two_campaigns_never_share_a_folder(tmp_path: Path) -> None:
    with Store(tmp_path), pytest.raises(InUse):
        Store(tmp_path)


def test_samples_in_two_files_count_once(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with Store(tmp_path / name) as store:
            store.append(ONE)
    assert sample.load_all([tmp_path / "a", tmp_path / "b"]).samples == (ONE,)
