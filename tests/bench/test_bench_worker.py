"""A worker that hangs, dies, speaks nonsense or leaks: a sample, and nothing left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.core import leaks, worker
from bench.core.target import Parts
from host.errors import DeadlinePassed, Failure


def _one(job: Callable[[], Parts], deadline_s: float = 5.0, grace_s: float = 1.0) -> worker.Ran:
    (ran,) = worker.runs(job, 1, deadline_s, grace_s)
    return ran


def _raises(error: BaseException) -> Callable[[], Parts]:
    def job() -> Parts:
        raise error

    return job


def test_a_report_comes_back_whole() -> None:
    parts = Parts("ok", {"t0": 0, "t8": 7}, {"pss_bytes": 1.5}, 0, "tcg")
    ran = _one(lambda: parts)
    assert ran.parts == (parts,)
    assert not ran.is_broken


def test_a_batch_shares_one_process() -> None:
    found = list(worker.runs(lambda: Parts(values={"pid": float(os.getpid())}), 3, 5.0))
    assert [ran.is_last for ran in found] == [False, False, True]
    assert len({ran.parts[0].values["pid"] for ran in found}) == 1
    assert found[0].parts[0].values["pid"] != os.getpid()


def test_the_runs_of_a_batch_wait_while_what_they_told_is_saved(tmp_path: Path) -> None:
    """Each run leaves a mark; while the campaign pauses no more come than the 50 ms that were told."""

    def job() -> Parts:
        with open(tmp_path / "runs", "ab") as runs:
            runs.write(b".")
        time.sleep(0.02)
        return Parts()

    told = 0
    for _ in worker.runs(job, 12, 5.0):
        told += 1
        if told == 1:
            time.sleep(0.5)
            ahead = (tmp_path / "runs").stat().st_size
    assert told == 12
    assert ahead <= 4


def test_a_worker_that_hangs_is_ended_at_its_deadline(tmp_path: Path) -> None:
    def hang() -> Parts:
        (tmp_path / "pid").write_text(str(os.getpid()))
        time.sleep(60)
        return Parts()

    began_s = time.monotonic()
    ran = _one(hang, deadline_s=0.3)
    assert time.monotonic() - began_s < 3
    assert ran.parts[0].status == "timeout"
    assert ran.is_broken
    assert not os.path.exists(f"/proc/{(tmp_path / 'pid').read_text()}")


def test_one_that_ignores_being_asked_is_killed() -> None:
    def stubborn() -> Parts:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(60)
        return Parts()

    assert _one(stubborn, deadline_s=0.2, grace_s=0.2).parts[0].status == "timeout"


def test_a_worker_that_is_asked_to_end_unwinds(tmp_path: Path) -> None:
    def job() -> Parts:
        try:
            time.sleep(60)
        finally:
            (tmp_path / "unwound").touch()
        return Parts()

    _one(job, deadline_s=0.3)
    assert (tmp_path / "unwound").exists()


def test_a_crash_tells_its_signal() -> None:
    ran = _one(os.abort)
    assert ran.parts[0].status == "failed"
    assert "SIGABRT" in (ran.parts[0].error or "")


def test_an_exit_without_a_report_is_told() -> None:
    assert "status 3" in (_one(lambda: os._exit(3)).parts[0].error or "")


def test_garbage_is_a_failure() -> None:
    def garbage() -> Parts:
        for fd in range(3, 64):
            with contextlib.suppress(OSError):
                os.write(fd, b"\xff\xff\xff\x7f garbage")
        time.sleep(5)
        return Parts()

    assert "nonsense" in (_one(garbage, deadline_s=3).parts[0].error or "")


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (Failure("cannot start", "x", "no", "try"), "failed", "cannot start x: no"),
        (DeadlinePassed("no marker"), "timeout", "no marker"),
        (KeyError("k"), "failed", "KeyError: 'k' (test_bench_worker.py:"),
    ],
)
def test_what_a_job_raises_is_told(error: Exception, status: str, words: str) -> None:
    ran = _one(_raises(error))
    assert ran.parts[0].status == status
    assert words in (ran.parts[0].error or "")
    assert not ran.is_broken


def test_children_in_the_workers_group_go_with_it(tmp_path: Path) -> None:
    def job() -> Parts:
        child = subprocess.Popen(["sleep", "60"])
        (tmp_path / "pid").write_text(str(child.pid))
        time.sleep(60)
        return Parts()

    _one(job, deadline_s=0.3)
    assert _gone(int((tmp_path / "pid").read_text()))


def test_a_worker_ends_when_its_campaign_is_killed(tmp_path: Path) -> None:
    code = f"""
import os, sys, time
from bench.core import worker
from bench.core.target import Parts
def job():
    try:
        open({str(tmp_path / "pid")!r}, "w").write(str(os.getpid()))
        time.sleep(60)
    finally:
        open({str(tmp_path / "unwound")!r}, "w").close()
    return Parts()
list(worker.runs(job, 1, 60))
"""
    campaign = subprocess.Popen([sys.executable, "-c", code])
    assert _until((tmp_path / "pid").exists)
    campaign.kill()
    campaign.wait()
    assert _until((tmp_path / "unwound").exists)
    assert _gone(int((tmp_path / "pid").read_text()))


def test_strays_are_found_killed_and_named() -> None:
    """In a process of its own: it adopts orphans, which pytest must not."""
    code = """
import os, subprocess
from bench.core import leaks, worker
from bench.core.target import Parts
leaks.adopt_orphans()
def job():
    subprocess.Popen(["sleep", "61"], start_new_session=True)
    return Parts()
known = leaks.children()
list(worker.runs(job, 1, 5))
print([(one.kind, one.what.split(" ", 1)[1]) for one in leaks.end_strays(known)], leaks.children() - known)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.strip() == "[('process', 'sleep 61')] frozenset()"


def test_new_files_in_watched_folders_are_litter(tmp_path: Path) -> None:
    before = leaks.snapshot([tmp_path])
    (tmp_path / "left").touch()
    (tmp_path / ".lock").touch()  # who owns the folder keeps it
    new = {one for one in leaks.snapshot([tmp_path]) - before if one.kind == "file"}
    assert new == {leaks.Litter("file", str(tmp_path / "left"))}


def _gone(pid: int) -> bool:
    """Ended, or a zombie that its new parent has not reaped yet."""

    def is_gone() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
        except OSError:
            return True

    return _until(is_gone)


def _until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    until_s = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until_s:
            return False
        time.sleep(0.02)
    return True


def test_an_orphan_of_a_run_is_reaped_while_the_run_goes_on() -> None:
    """As libvirtd, started by a run, waits for the QEMU that it has killed to be gone."""
    code = """
import os, time
from bench.core import leaks, worker
from bench.core.target import Parts

def job():
    read, write = os.pipe()
    if os.fork() == 0:
        orphan = os.fork()
        if orphan:
            os.write(write, b"%d" % orphan)
        else:
            time.sleep(0.2)
        os._exit(0)
    orphan = int(os.read(read, 32))
    os.wait()
    until = time.monotonic() + 5
    while os.path.exists(f"/proc/{orphan}") and time.monotonic() < until:
        time.sleep(0.01)
    return Parts("failed" if os.path.exists(f"/proc/{orphan}") else "ok")

leaks.adopt_orphans()
for ran in worker.runs(job, 1, 10.0):
    print(ran.parts[0].status)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["ok"]
