"""The same words on both kinds, real containers and real machines: same output and status, nothing left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import leaks
import pytest
from capabilities import need
from commandline import CommandLine


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One home for the module: images and the kernel are made once."""
    home = tmp_path_factory.mktemp("lifecycle") / "home"
    yield home
    leaks.forget(home)


@pytest.fixture(params=["--ct", "--vm"])
def kind(request: pytest.FixtureRequest) -> str:
    need("root", "busybox", "guest-helper")
    need(*(("cgroup", "overlay") if request.param == "--ct" else ("qemu", "kernel")))
    return str(request.param)


@pytest.fixture
def vmm(shared_home: Path) -> Iterator[CommandLine]:
    command_line = CommandLine(shared_home)
    command_line.run("run", "--ct", "--rm", "--network", "none", "tiny", "true")
    with leaks.none(shared_home):
        yield command_line
        command_line.run("rm", "-f", "--all")


def test_a_command_says_the_same_and_its_status_is_ours(kind: str, vmm: CommandLine) -> None:
    run = ("run", kind, "--rm", "--network", "none", "tiny")
    assert vmm.ok(*run, "echo", "hi") == "hi\n"
    done = vmm.run(*run, "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 7)
    assert vmm.run(*run, "sh", "-c", "sh -c 'kill -9 $$'; exit $?").returncode == 137
    assert vmm.ls() == {}


def test_stdin_reaches_the_command_only_when_asked(kind: str, vmm: CommandLine) -> None:
    run = ("run", kind, "--rm", "--network", "none")
    assert vmm.ok(*run, "-i", "tiny", "cat", input="a\nb\n" * 1000) == "a\nb\n" * 1000
    assert vmm.ok(*run, "tiny", "cat", input="never\n") == ""


def test_environment_user_and_folder(kind: str, vmm: CommandLine) -> None:
    run = (
        "run",
        kind,
        "--rm",
        "--network",
        "none",
        "-e",
        "COLOR=blue",
        "-u",
        "5:6",
        "-w",
        "/tmp",
        "--hostname",
        "box",
    )
    said = vmm.ok(*run, "tiny", "sh", "-c", "echo $COLOR $(id -u):$(id -g) $PWD $(hostname)")
    assert said == "blue 5:6 /tmp box\n"


def test_a_life(kind: str, vmm: CommandLine) -> None:
    """create, start, exec, logs, pause, resume, stop, start again, kill, wait, rm."""
    identity = vmm.ok(
        "run", kind, "-d", "--name", "web", "--network", "none", "tiny",
        "sh", "-c", "echo born; trap 'echo bye; exit 3' TERM; while :; do sleep 0.1; done",
    ).strip()  # fmt: skip
    assert len(identity) == 64
    assert vmm.ls()["web"]["state"] == "running"
    assert vmm.ok("ls", "-q").strip() == identity[:12]
    assert vmm.ok("exec", "web", "echo", "inside") == "inside\n"
    assert vmm.run("exec", "web", "sh", "-c", "exit 9").returncode == 9
    assert vmm.ok("exec", "-i", "web", "cat", input="through\n") == "through\n"
    _eventually(lambda: "born" in vmm.ok("logs", "web"))
    vmm.ok("pause", "web")
    assert vmm.ls()["web"]["state"] == "paused"
    done = vmm.run("exec", "web", "true")
    assert (done.returncode, "it is paused" in done.stderr) == (125, True)
    vmm.ok("resume", "web")
    assert vmm.run("rm", "web").returncode == 1
    vmm.ok("stop", "--time", "20", "web")
    assert (vmm.ls()["web"]["state"], vmm.ls()["web"]["status"]) == ("exited", 3)
    assert "bye" in vmm.ok("logs", "web")
    vmm.ok("start", "web")
    vmm.ok("kill", "web")
    assert vmm.ok("wait", "web").strip() == "137"
    vmm.ok("rename", "web", "shop")
    assert set(vmm.ls()) == {"shop"}
    vmm.ok("start", "shop")
    assert vmm.ok("exec", "shop", "echo", "again") == "again\n"
    vmm.ok("rm", "-f", "shop")
    assert vmm.ls() == {}


def _eventually(true: object, timeout_s: float = 10) -> None:
    assert callable(true)
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.1)


def test_stop_kills_what_does_not_listen_and_takes_its_time(kind: str, vmm: CommandLine) -> None:
    vmm.ok(
        "run",
        kind,
        "-d",
        "--name",
        "deaf",
        "--network",
        "none",
        "tiny",
        "sh",
        "-c",
        "trap '' TERM; echo deaf; sleep 1000",
    )
    _eventually(lambda: "deaf" in vmm.ok("logs", "deaf"))
    began = time.monotonic()
    vmm.ok("stop", "--time", "1", "deaf")
    assert 0.9 < time.monotonic() - began < 15
    assert vmm.ls()["deaf"]["state"] == "exited"


def test_what_ends_by_itself_is_exited_with_its_status(kind: str, vmm: CommandLine) -> None:
    vmm.ok("run", kind, "-d", "--name", "short", "--network", "none", "tiny", "sh", "-c", "echo said; exit 4")
    assert vmm.ok("wait", "short").strip() == "4"
    assert (vmm.ls()["short"]["state"], vmm.ls()["short"]["status"]) == ("exited", 4)
    assert vmm.ok("logs", "short") == "said\n"
    assert vmm.ok("logs", "--timestamps", "short").split()[1:] == ["said"]


def test_create_then_start_attached(kind: str, vmm: CommandLine) -> None:
    vmm.ok("create", kind, "--name", "made", "--network", "none", "tiny", "sh", "-c", "echo ran; exit 2")
    assert vmm.ls()["made"]["state"] == "created"
    done = vmm.run("start", "-a", "made")
    assert (done.stdout, done.returncode) == ("ran\n", 2)


def test_tail_follow_and_files(kind: str, vmm: CommandLine, tmp_path: Path) -> None:
    vmm.ok("run", kind, "-d", "--name", "talk", "--network", "none", "tiny", "sh", "-c",
           "for i in 1 2 3 4 5; do echo line $i; done; sleep 1; echo last")  # fmt: skip
    assert vmm.ok("logs", "--follow", "talk").splitlines()[-1] == "last"
    assert vmm.ok("logs", "--tail", "2", "talk") == "line 5\nlast\n"


def test_cp_both_ways(kind: str, vmm: CommandLine, tmp_path: Path) -> None:
    vmm.ok("run", kind, "-d", "--name", "box", "--network", "none", "tiny", "sleep", "1000")
    source = tmp_path / "source"
    source.write_bytes(os.urandom(100_000))
    source.chmod(0o640)
    vmm.ok("cp", str(source), "box:/tmp/there")
    assert vmm.ok("exec", "box", "stat", "-c", "%s %a", "/tmp/there") == "100000 640\n"
    vmm.ok("cp", "box:/tmp/there", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == source.read_bytes()
    assert vmm.run("cp", "box:/nothing", str(tmp_path / "x")).returncode == 1


def test_inspect_explain_stats_and_top_tell_the_truth(kind: str, vmm: CommandLine) -> None:
    vmm.ok(
        "run", kind, "-d", "--name", "seen", "--memory", "128M", "--network", "none", "tiny", "sleep", "1000"
    )
    told = vmm.inspect("seen")
    assert (told["name"], told["state"], told["image"]) == ("seen", "running", "tiny")
    assert Path(f"/proc/{told['pid']}").exists()
    assert "seen" in vmm.ok("explain", "seen")
    stats = json.loads(vmm.ok("stats", "--json", "seen"))["instances"][0]
    assert stats["memory_bytes"] > 0
    assert stats["memory_limit_bytes"] == 128 << 20
    assert "sleep 1000" in vmm.ok("top", "seen")
    assert vmm.ok("ls", "--format", "{{.Name}} {{.State}}") == "seen running\n"
    assert vmm.ok("ls", "--filter", "name=nobody", "-q") == ""


def test_ctrl_c_ends_the_command_and_leaves_nothing(kind: str, vmm: CommandLine) -> None:
    """Ctrl-C on a terminal reaches the whole foreground group; `vmm run` passes it on."""
    words = vmm.argv(
        "run",
        kind,
        "--rm",
        "--network",
        "none",
        "tiny",
        "sh",
        "-c",
        "trap 'exit 5' INT; echo up; sleep 99 & wait",
    )
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=vmm.env, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(30) == 5
        finally:
            process.kill()
    assert vmm.ls() == {}


@pytest.mark.parametrize("word", [["-d"], []], ids=["detached", "foreground"])
def test_a_failed_start_leaves_nothing(kind: str, word: list[str], vmm: CommandLine, tmp_path: Path) -> None:
    done = vmm.run("run", kind, *word, "--network", "none", "-v", f"{tmp_path}/none:/x", "tiny", "true")
    assert done.returncode == 125
    assert vmm.ls() == {}
