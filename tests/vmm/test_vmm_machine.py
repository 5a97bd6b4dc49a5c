"""A real machine under TCG, by both drivers: run, start, exec, logs, stop, and what is left afterwards."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from capabilities import need
from machines import ENV, QUIET, machine

from host.edges import Edges
from host.errors import DeadlinePassed, Failure, WrongState
from host.exec_request import ExecRequest
from host.stdio import Stdio
from vmm import process
from vmm.machine import Machine

pytestmark = pytest.mark.machine
both = pytest.mark.parametrize("driver", ["qemu", "libvirt"])


@pytest.fixture(autouse=True)
def _capable(request: pytest.FixtureRequest) -> None:
    need("root", "qemu", "kernel", "busybox", "guest-helper")
    if "libvirt" in request.node.name:
        need("libvirt")


def said(work: Callable[[Stdio], int]) -> tuple[int, bytes]:
    """The status of some work and the bytes that it wrote to its stdout."""
    reader, writer = os.pipe()
    pieces: list[bytes] = []

    def listen() -> None:
        with open(reader, "rb") as file:
            pieces.append(file.read())

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        status = work(Stdio(QUIET.stdin, writer, 2))
    finally:
        os.close(writer)
        thread.join()
    return status, pieces[0]


def log_of(it: Machine) -> bytes:
    return said(lambda stdio: it.logs(out_fd=stdio.stdout) or 0)[1]


def until_said(it: Machine, words: bytes) -> None:
    deadline = time.monotonic() + 10
    while words not in log_of(it):
        assert time.monotonic() < deadline, f"{words!r} is not in {log_of(it)!r}"
        time.sleep(0.05)


def inside(it: Machine, *argv: str) -> tuple[int, bytes]:
    return said(lambda stdio: it.exec(ExecRequest(argv, ENV), stdio))


@both
def test_run_gives_output_status_and_edges(driver: str) -> None:
    edges = Edges()
    edges.mark("t0")
    with machine("sh", "-c", "echo hi; exit 7", driver=driver, ephemeral=True) as it:
        assert said(lambda stdio: it.run(stdio, edges)) == (7, b"hi\n")
        assert it.pid() is None
    at = edges.since_ns()
    assert at["t0"] <= at["t2"] < at["t3"] < at["t6"] < at["t8"] < at["t9"]
    assert at["t2"] < at["t5"] < at["t6"] <= at["t4"], "the kernel begins, init begins, then the guest speaks"


@both
def test_a_detached_machine_keeps_its_log_and_status_without_us(driver: str) -> None:
    with machine("sh", "-c", "echo out; echo err >&2; sleep 1; exit 5", driver=driver) as it:
        assert it.state() == "created"
        it.start(Edges())
        assert it.state() == "running"
        with pytest.raises(WrongState, match="runs already"):
            it.start(Edges())
        assert it.wait(20) == 5
        assert it.state() == "exited"
        assert it.status() == 5
        log = said(lambda stdio: it.logs(out_fd=stdio.stdout) or 0)[1]
        assert sorted(log.split()) == [b"err", b"out"]
        stamped = said(lambda stdio: it.logs(timestamps=True, tail=1, out_fd=stdio.stdout) or 0)[1]
        assert stamped.startswith(b"20")
        assert b"Z " in stamped


@both
def test_exec_pause_resume_and_stop(driver: str) -> None:
    script = "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 1 & wait; done"
    with machine("sh", "-c", script, driver=driver) as it:
        it.start(Edges())
        until_said(it, b"up")
        assert inside(it, "sh", "-c", "echo in; exit 4") == (4, b"in\n")
        it.pause()
        assert it.state() == "paused"
        it.resume()
        assert it.state() == "running"
        it.stop(10)
        assert (it.state(), it.status()) == ("exited", 3)
        assert b"bye" in said(lambda stdio: it.logs(out_fd=stdio.stdout) or 0)[1]


def test_a_command_that_will_not_end_is_killed_after_its_time() -> None:
    with machine("sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done") as it:
        it.start(Edges())
        until_said(it, b"up")
        it.stop(0.5)
        assert (it.state(), it.status()) == ("exited", 137)


def test_what_a_machine_writes_is_there_at_its_next_start() -> None:
    with machine("sh", "-c", "cat /kept 2>/dev/null || { echo first > /kept; echo wrote; }") as it:
        assert said(lambda stdio: it.run(stdio, Edges())) == (0, b"wrote\n")
        assert said(lambda stdio: it.run(stdio, Edges())) == (0, b"first\n")


def test_qemu_runs_as_its_own_user_with_nothing_to_gain() -> None:
    with machine("sleep", "60") as it:
        it.start(Edges())
        words = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{it.pid()}/status").read_text().splitlines()
            if ":\t" in line
        )
        assert words["Uid"].split() == [words["Uid"].split()[0]] * 4
        assert words["Uid"].split()[0] != "0"
        assert int(words["CapEff"], 16) == int(words["CapBnd"], 16) == 0
        assert words["NoNewPrivs"] == "1"
        assert words["Seccomp"] == "2"


def test_qemu_killed_while_the_guest_boots_is_told_and_leaves_nothing() -> None:
    with machine("true", ephemeral=True) as it:

        def kill_it() -> None:
            pid = process.await_life(it.run_dir / "pid", 10)
            if pid:
                time.sleep(0.2)
                process.kill(pid)

        killer = threading.Thread(target=kill_it)
        killer.start()
        with pytest.raises(Failure, match="killed by signal 9"):
            it.run(QUIET, Edges())
        killer.join()
        assert it.state() == "exited"


def test_a_guest_that_panics_is_told_by_the_end_of_its_console() -> None:
    with machine("true", ephemeral=True, init="/no/such/init") as it, pytest.raises(Failure) as told:
        it.start(Edges())
    assert "vmm-guest: cannot execute the image's init" in str(told.value)
    assert "does the image have that program" in told.value.hint


def test_a_marker_that_never_comes_ends_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMM_BOOT_TIMEOUT_S", "0.5")
    with (
        machine("true", ephemeral=True) as it,
        pytest.raises(DeadlinePassed, match=r"guest helper after 0\.5 s"),
    ):
        it.run(QUIET, Edges())


def test_a_stopped_qemu_is_unresponsive_within_its_time() -> None:
    with machine("sleep", "60") as it:
        it.start(Edges())
        pid = it.pid()
        assert pid is not None
        process.kill(pid, 19)
        began = time.monotonic()
        assert it.state() == "unresponsive"
        assert time.monotonic() - began < 0.5
        process.kill(pid, 18)
        assert it.state() == "running"


def test_a_kernel_that_is_not_there_is_one_sentence() -> None:
    with machine("true", ephemeral=True) as it:
        gone = Machine(it.folder, it.run_dir, it.spec.__class__(**{**_fields(it), "kernel": "/no/kernel"}))
        with pytest.raises(Failure, match="/no/kernel"):
            gone.run(QUIET, Edges())
        assert gone.pid() is None


def _fields(it: Machine) -> dict[str, object]:
    return it.spec._asdict()


def test_an_answer_to_an_earlier_question_is_read_and_not_kept() -> None:
    """A list asks several before it reads: each gets its own answer, and the next look asks anew."""
    need("root", "qemu", "kernel", "busybox", "guest-helper")
    with machine("sleep", "60") as it:
        it.ask()  # nobody is there yet
        assert it.state() == "created"
        it.start(Edges())
        it.ask()
        it.pause()
        assert it.state() in ("running", "paused")  # what was true when it was asked, or when QEMU looked
        assert it.state() == "paused"
        it.kill()
        it.ask()
        assert it.state() == "exited"
