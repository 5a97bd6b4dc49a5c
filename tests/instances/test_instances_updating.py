"""What can be changed of a container, what happens to it by itself, and what its flags are good for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import leaks
import pytest
from capabilities import need
from commandline import CommandLine


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    need("root", "busybox", "guest-helper", "cgroup", "overlay")
    home = tmp_path_factory.mktemp("updating") / "home"
    yield home
    leaks.forget(home)


@pytest.fixture
def vmm(home: Path) -> Iterator[CommandLine]:
    vmm = CommandLine(home)
    vmm.env["VMM_NETWORK"] = "none"
    yield vmm
    vmm.run("rm", "-f", "--all")


def until(true: Callable[[], object], what: str, timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.05)


def state(vmm: CommandLine) -> str:
    return str(vmm.inspect("u")["state"])


def test_another_restart_policy_holds_for_what_runs(vmm: CommandLine) -> None:
    vmm.ok("run", "-d", "--name", "u", "--restart", "always", "tiny", "sleep", "1000")
    vmm.ok("update", "u", "--restart", "no")
    os.kill(vmm.inspect("u")["pid"], signal.SIGKILL)
    until(lambda: state(vmm) == "exited", "its end")
    time.sleep(1.5)  # a restart would have come by now: the first is due after 0.1 s
    assert state(vmm) == "exited"
    assert "sometimes" in vmm.run("update", "u", "--restart", "sometimes").stderr


def test_a_crash_loop_is_shown_as_restarting_and_stop_and_rm_end_it(vmm: CommandLine) -> None:
    for name in ("u", "v"):
        vmm.ok("run", "-d", "--name", name, "--restart", "always", "tiny", "sh", "-c", "exit 3")
        until(lambda name=name: vmm.inspect(name)["restarts"] >= 4, "a pause that grew")  # type: ignore[misc]
    until(lambda: state(vmm) == "restarting", "a pause")
    assert vmm.inspect("u")["status"] == 3
    assert "restarting (3)" in vmm.ok("ls"), "without -a, as docker ps"
    assert set(vmm.ok("ls", "--filter", "status=restarting", "--format", "{name}").split()) <= {"u", "v"}
    vmm.ok("prune", "--force")
    assert set(vmm.ls()) == {"u", "v"}, "what starts again by itself does not stand still"
    until(lambda: "it is restarting" in vmm.run("exec", "u", "true").stderr, "an exec in a pause")
    vmm.ok("stop", "u")
    assert state(vmm) == "exited"
    seen = vmm.inspect("u")["restarts"]
    time.sleep(2)
    assert (state(vmm), vmm.inspect("u")["restarts"]) == ("exited", seen)
    began_s = time.monotonic()
    vmm.ok("rm", "-f", "v")
    assert time.monotonic() - began_s < 2, "it does not wait until the restart is due"
    assert set(vmm.ls()) == {"u"}


def test_more_processors_than_the_host_has_are_refused(vmm: CommandLine) -> None:
    vmm.ok("run", "-d", "--name", "u", "tiny", "sleep", "1000")
    refused = vmm.run("update", "u", "--cpus", "4096")
    assert refused.returncode == 2
    assert f"this host has {os.cpu_count()}" in refused.stderr
    assert f"hint: --cpus from 0.01 to {os.cpu_count()}" in refused.stderr
    assert "cpus" not in vmm.inspect("u")["spec"].get("limits", {})


def test_follow_hears_the_last_words_of_a_run_that_takes_them_down_late(vmm: CommandLine) -> None:
    script = "until [ -e /go ]; do sleep 0.1; done; head -c 3000 /dev/zero | tr '\\0' x"
    words = vmm.argv("run", "--name", "u", "tiny", "sh", "-c", script)
    with subprocess.Popen(words, env=vmm.env, stdout=subprocess.PIPE) as run:
        until(lambda: "u" in vmm.ls() and state(vmm) == "running", "its start")
        run.send_signal(signal.SIGSTOP)
        try:
            vmm.ok("exec", "u", "touch", "/go")
            until(lambda: state(vmm) == "exited", "the command's end")
            follow = vmm.argv("logs", "-f", "u")
            with subprocess.Popen(follow, env=vmm.env, stdout=subprocess.PIPE) as logs:
                time.sleep(1)
                run.send_signal(signal.SIGCONT)
                assert len(logs.communicate()[0]) == len(run.communicate()[0]) == 3000
        finally:
            run.send_signal(signal.SIGCONT)
    assert (run.returncode, logs.returncode) == (0, 0)


def test_swap_and_processors_change_while_it_runs(vmm: CommandLine) -> None:
    vmm.ok("run", "-d", "--name", "u", "-m", "64M", "tiny", "sleep", "1000")
    vmm.ok("update", "u", "--memory-swap", "128M", "--cpuset-cpus", "0")
    limits = vmm.inspect("u")["spec"]["limits"]
    assert (limits["memory_bytes"], limits["swap_bytes"], limits["cpuset"]) == (64 << 20, 64 << 20, "0")
    assert vmm.ok("exec", "u", "grep", "Cpus_allowed_list", "/proc/self/status").split()[1] == "0"
    done = vmm.run("update", "u", "--memory-swap", "32M")
    assert done.returncode == 2
    assert vmm.inspect("u")["spec"]["limits"] == limits


def test_a_log_is_as_large_as_asked(vmm: CommandLine) -> None:
    options = ("--log-opt", "max-size=64k", "--log-opt", "max-file=2")
    vmm.ok("run", "-d", "--name", "u", *options, "tiny", "sh", "-c", "seq 100000; sleep 100")
    until(lambda: vmm.ok("logs", "-n", "1", "u") == "100000\n", "the last line")
    sizes = [one.stat().st_size for one in (vmm.home / "instances/u").glob("log*")]
    assert len(sizes) == 2
    assert sum(sizes) <= 2 * (64 << 10)
    assert vmm.run("run", "--rm", "--log-opt", "max-size=", "tiny", "true").returncode == 125
    assert vmm.run("run", "--rm", "--log-opt", "colour=red", "tiny", "true").returncode == 125


def test_events_tell_restarts_statuses_and_health(vmm: CommandLine) -> None:
    vmm.ok("run", "--rm", "tiny", "true")
    words = vmm.argv("events", "--json")
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=vmm.env) as reader:
        time.sleep(1)
        policy = ("--restart", "on-failure:1", "--health-cmd", "true", "--health-interval", "200ms")
        vmm.ok("run", "-d", "--name", "u", *policy, "tiny", "sh", "-c", "sleep 1; exit 3")
        until(lambda: vmm.inspect("u")["restarts"] == 1 and state(vmm) == "exited", "the second end")
        time.sleep(1)
        reader.terminate()
        told = [json.loads(line) for line in reader.stdout or [] if '"u"' in line]
    assert [(one["event"], one.get("status")) for one in told if one["event"] != "healthy"] == [
        ("created", None),
        ("started", None),
        ("exited", 3),
        ("restarted", None),
        ("exited", 3),
    ]
    assert "healthy" in [one["event"] for one in told]


def test_no_time_to_stop_is_no_surprise(vmm: CommandLine) -> None:
    vmm.ok("run", "-d", "--name", "u", "tiny", "sh", "-c", "trap : TERM; while :; do sleep 1; done")
    done = vmm.run("stop", "--time", "0", "u")
    assert (done.returncode, done.stderr) == (0, "")


def test_ls_knows_json_as_a_form_too(vmm: CommandLine) -> None:
    vmm.ok("create", "--name", "u", "tiny", "true")
    assert vmm.ok("ls", "-a", "--format", "json") == vmm.ok("ls", "-a", "--json")


def test_a_stop_signal_may_be_one_of_systemd_s(vmm: CommandLine) -> None:
    vmm.ok("run", "-d", "--name", "u", "--stop-signal", "SIGRTMIN+3", "tiny", "sleep", "1000")
    assert vmm.run("stop", "--time", "20", "u").stderr == ""
    assert vmm.inspect("u")["status"] == 128 + signal.SIGRTMIN + 3


def test_a_shared_namespace_is_the_neighbour_s_of_now(vmm: CommandLine) -> None:
    """Not the file of a pid that was his once, and may be a stranger's by now."""
    vmm.ok("run", "-d", "--name", "u", "tiny", "sleep", "1000")
    vmm.ok("run", "-d", "--name", "guest", "--ipc", "container:u", "tiny", "sleep", "1000")
    vmm.ok("restart", "--time", "0", "u", "guest")
    files = [os.readlink(f"/proc/{vmm.inspect(name)['pid']}/ns/ipc") for name in ("u", "guest")]
    assert files[0] == files[1]
    vmm.ok("stop", "--time", "0", "u", "guest")
    done = vmm.run("start", "guest")
    assert "cannot share the ipc namespace of u: it is not running" in done.stderr
    assert vmm.inspect("guest")["state"] == "exited", "a start that failed forgets nothing"
    assert "container:u" in json.dumps(vmm.inspect("guest")["spec"])


def test_a_privileged_exec_has_what_the_host_s_root_has(vmm: CommandLine) -> None:
    vmm.ok("run", "-d", "--name", "u", "tiny", "sleep", "1000")
    lines = Path("/proc/self/status").read_text().splitlines(keepends=True)
    held = "".join(line for line in lines if line.startswith("CapEff"))
    assert vmm.ok("exec", "--privileged", "u", "grep", "CapEff", "/proc/self/status") == held


def test_ls_tells_the_port_that_the_kernel_chose(vmm: CommandLine) -> None:
    need("nft")
    vmm.ok("run", "-d", "--name", "u", "--network", "bridge", "-p", "80", "tiny", "sleep", "1000")
    chosen = vmm.ok("port", "u", "80").strip()
    assert vmm.ls()["u"]["ports"] == [f"{chosen}->80/tcp"]
    assert not chosen.endswith(":0")
