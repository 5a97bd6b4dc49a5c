"""kill -9 of `vmm run` at random moments: the next `vmm ls` is right, and repair leaves nothing."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Iterator

import leaks
import pytest
from capabilities import need
from commandline import CommandLine

from host import paths
from vmm import process

ROUNDS = 10
STATES = {"created", "running", "paused", "exited", "booting"}


@pytest.fixture(scope="module")
def vmm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    home = tmp_path_factory.mktemp("killed") / "home"
    yield CommandLine(home)
    leaks.forget(home)


def _needs(kind: str) -> None:
    need("root", "busybox", "guest-helper")
    need(*(("cgroup", "overlay") if kind == "--ct" else ("qemu", "kernel")))


def _killed_after(vmm: CommandLine, words: list[str], delay_s: float) -> None:
    with subprocess.Popen(
        vmm.argv(*words),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=vmm.env,
        start_new_session=True,
    ) as killed:
        time.sleep(delay_s)
        killed.send_signal(signal.SIGKILL)


@pytest.mark.parametrize(
    ("kind", "longest_s", "rm"),
    [
        pytest.param("--ct", 0.25, ["--rm"], id="ct-rm"),
        pytest.param("--ct", 0.25, [], id="ct-kept"),
        pytest.param("--vm", 1.5, ["--rm"], id="vm-rm"),
        pytest.param("--vm", 1.5, [], id="vm-kept", marks=pytest.mark.slow),
    ],
)
def test_kill_9_of_run_leaves_a_world_that_is_understood(
    kind: str, longest_s: float, rm: list[str], vmm: CommandLine
) -> None:
    _needs(kind)
    vmm.ok("run", kind, "--rm", "--network", "none", "tiny", "true")
    seed = random.randrange(1 << 32)
    moments = random.Random(seed)
    with leaks.none(vmm.home):
        for _ in range(ROUNDS):
            delay_s = moments.uniform(0.02, longest_s)
            _killed_after(vmm, ["run", kind, *rm, "--network", "none", "tiny", "sleep", "30"], delay_s)
            seen = vmm.ls()
            assert all(one["state"] in STATES for one in seen.values()), (seed, delay_s, seen)
        vmm.ok("doctor", "--repair")
        if rm:
            assert vmm.ls() == {}, seed
        vmm.ok("rm", "-f", "--all") if vmm.ls() else None
        assert vmm.ls() == {}, seed


@pytest.mark.parametrize("way", [("--boot", "microvm"), ()], ids=["boot", "clone"])
def test_a_detached_start_killed_before_its_command_runs_leaves_no_qemu(
    way: tuple[str, ...], vmm: CommandLine
) -> None:
    _needs("--vm")
    common = ["run", "--vm", "-d", "--network", "none", *way]
    vmm.ok(*common, "--name", "whole", "tiny", "sleep", "600")
    pid = paths.run_dir(vmm.home) / "cut" / "pid"
    with leaks.none(vmm.home):
        words = vmm.argv(*common, "--name", "cut", "tiny", "sleep", "600")
        with subprocess.Popen(words, env=vmm.env, stdout=subprocess.DEVNULL) as run:
            deadline = time.monotonic() + 20
            while process.living(pid) is None and time.monotonic() < deadline:
                time.sleep(0.001)
            assert process.living(pid), "its QEMU did not come"
            run.kill()
        time.sleep(0.5)
        assert process.living(pid) is None
        assert vmm.ls()["whole"]["state"] == "running"
        vmm.ok("rm", "-f", "cut")
    vmm.ok("rm", "-f", "--all")


@pytest.mark.parametrize("kind", ["--ct", "--vm"])
def test_kill_9_of_rm_is_finished_by_the_next(kind: str, vmm: CommandLine) -> None:
    _needs(kind)
    moments = random.Random()
    with leaks.none(vmm.home):
        for _ in range(3):
            vmm.ok("create", kind, "--name", "victim", "--network", "none", "tiny", "true")
            _killed_after(vmm, ["rm", "victim"], moments.uniform(0.02, 0.12))
            vmm.run("rm", "victim")
            vmm.ok("doctor", "--repair")
            assert vmm.ls() == {}


def test_qemu_killed_in_the_middle_of_its_boot_is_told(vmm: CommandLine) -> None:
    _needs("--vm")
    vmm.ok("run", "--vm", "--rm", "--network", "none", "tiny", "true")
    words = vmm.argv("run", "--vm", "--rm", "--name", "boom", "--network", "none", "tiny", "sleep", "30")
    with leaks.none(vmm.home):
        with subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=vmm.env
        ) as killed:
            pid = _pid_of_machine(vmm, "boom")
            subprocess.run(["kill", "-9", str(pid)], check=True)
            _, err = killed.communicate(timeout=30)
        assert killed.returncode == 125, err
        assert "Traceback" not in err
        assert "killed by signal 9" in err
        assert vmm.ls() == {}


def _pid_of_machine(vmm: CommandLine, name: str) -> int:
    file = paths.run_dir(vmm.home) / name / "pid"
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if file.exists() and file.read_text().strip():
            return int(file.read_text())
        time.sleep(0.005)
    raise AssertionError("no machine came up")


def test_a_guest_that_panics_is_told_with_its_last_words(vmm: CommandLine) -> None:
    _needs("--vm")
    with leaks.none(vmm.home):
        run = ("run", "--vm", "--rm", "--network", "none", "--append", "rdinit=/nosuch init=/nosuch")
        done = vmm.run(*run, "tiny", "true", timeout_s=120)
        assert done.returncode == 125, done
        assert "Traceback" not in done.stderr
        assert "panic" in done.stderr.lower()
        assert "hint: " in done.stderr
        assert vmm.ls() == {}


def test_the_cli_itself_can_be_terminated(vmm: CommandLine) -> None:
    """SIGTERM of the foreground command is passed on: the container ends, and the world is as before."""
    _needs("--ct")
    words = vmm.argv(
        "run",
        "--ct",
        "--rm",
        "--network",
        "none",
        "tiny",
        "sh",
        "-c",
        "trap 'exit 6' TERM; echo up; sleep 9 & wait",
    )
    with leaks.none(vmm.home), subprocess.Popen(words, stdout=subprocess.PIPE, env=vmm.env) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"up\n"
        running.terminate()
        assert running.wait(20) == 6


@pytest.mark.parametrize("words", [("commit", "busy", "kept"), ("export", "busy", "-o", "/dev/null")])
def test_a_copy_of_a_running_container_that_is_killed_leaves_it_running(
    words: tuple[str, ...], vmm: CommandLine
) -> None:
    """It is paused meanwhile, and nobody else would resume it."""
    _needs("--ct")
    write = "dd if=/dev/urandom of=/large bs=1M count=200 2>/dev/null; echo there; exec sleep 600"
    vmm.ok("run", "-d", "--ct", "--network", "none", "--name", "busy", "tiny", "sh", "-c", write)
    try:
        while "there" not in vmm.ok("logs", "busy"):
            time.sleep(0.05)
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(vmm.argv(*words), env=vmm.env, start_new_session=True, **quiet) as killed:
            while vmm.ls()["busy"]["state"] != "paused":
                assert killed.poll() is None
            killed.kill()
        deadline = time.monotonic() + 5
        while vmm.ls()["busy"]["state"] == "paused":
            assert time.monotonic() < deadline
        assert vmm.ok("exec", "busy", "echo", "in") == "in\n"
    finally:
        vmm.ok("rm", "-f", "busy")
