"""Faults of machines by the real command line, both drivers: one clear message, and nothing half made."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import leaks
import pytest
from capabilities import NEXT_QEMUS, need, next_qemu
from commandline import CommandLine, told

from host import paths

pytestmark = pytest.mark.machine
DRIVERS = ["qemu", pytest.param("libvirt", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def vmm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    """One home for the module; on the big disk, where QEMU's own users can pass."""
    need("root", "busybox", "guest-helper", "qemu", "kernel")
    home = Path("/var/tmp", f"vmm-faults-{os.getpid()}")
    there = CommandLine(home)
    try:
        yield there
    finally:
        there.run("rm", "-f", "--all")
        leaks.forget(home)
        subprocess.run(["rm", "-rf", "--one-file-system", home], check=False)


@contextmanager
def machine(
    vmm: CommandLine, driver: str, *words: str, command: tuple[str, ...] = ("sleep", "600")
) -> Iterator[str]:
    """A running machine that has gone without a trace afterwards."""
    if driver == "libvirt":
        need("libvirt")
    name = f"f{random.randrange(1 << 24):06x}"
    boot = () if "--boot" in words else ("--boot", "microvm")
    run = ("run", "-d", "--vm", "--driver", driver, "--network", "none", "--name", name, *boot, *words)
    vmm.ok(*run, "tiny", *command, timeout_s=180)  # image, kernel and disk are made on first use
    with leaks.none(vmm.home, files=False):
        pass
    yield name
    vmm.ok("rm", "-f", name)
    left = [line for line in leaks.snapshot(vmm.home) if name in line and "cgroup" not in line]
    assert not left


def pid_of(vmm: CommandLine, name: str) -> int:
    return int((paths.run_dir(vmm.home) / name / "pid").read_text())


def state(vmm: CommandLine, name: str) -> str:
    return str(vmm.ls()[name]["state"])


@pytest.mark.parametrize("driver", DRIVERS)
def test_qemu_killed_is_exited_unknown_and_starts_again(vmm: CommandLine, driver: str) -> None:
    with machine(vmm, driver) as name:
        os.kill(pid_of(vmm, name), signal.SIGKILL)
        deadline = time.monotonic() + 5
        while state(vmm, name) != "exited" and time.monotonic() < deadline:
            time.sleep(0.05)
        assert vmm.ls()[name]["status"] is None, "nobody saw how it ended"
        told(vmm.run("exec", name, "true"), 125, name, f"vmm start {name}")
        vmm.ok("start", name)
        assert vmm.ok("exec", name, "echo", "again") == "again\n"


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_stopped_qemu_can_be_stopped_killed_and_removed(vmm: CommandLine, driver: str) -> None:
    with machine(vmm, driver) as name:
        os.kill(pid_of(vmm, name), signal.SIGSTOP)
        assert state(vmm, name) == "unresponsive"
        told(vmm.run("pause", name), 1, name, "not answer")
        began = time.monotonic()
        vmm.ok("stop", "-t", "1", name)
        assert time.monotonic() - began < 15
        assert state(vmm, name) == "exited"


def test_a_monitor_socket_that_is_gone_is_told_and_the_machine_can_still_be_stopped(vmm: CommandLine) -> None:
    with machine(vmm, "qemu") as name:
        run = paths.run_dir(vmm.home) / name
        (run / "ctl").unlink()
        told(vmm.run("pause", name), 1, "took its socket", f"vmm restart {name}")
        assert state(vmm, name) == "running"
        (run / "query").unlink()
        assert state(vmm, name) == "unresponsive"
        assert vmm.ok("exec", name, "echo", "in") == "in\n"
        vmm.ok("restart", "-t", "2", name)
        vmm.ok("pause", name)
        assert state(vmm, name) == "paused"


def test_a_guest_that_panics_ends_and_its_console_is_kept(vmm: CommandLine) -> None:
    with machine(vmm, "qemu") as name:
        vmm.run("exec", name, "sh", "-c", "echo c > /proc/sysrq-trigger", timeout_s=30)
        deadline = time.monotonic() + 10
        while state(vmm, name) != "exited" and time.monotonic() < deadline:
            time.sleep(0.05)
        assert state(vmm, name) == "exited"
        assert "Kernel panic" in Path(vmm.inspect(name)["serial_log"]).read_text(errors="replace")


def test_a_guest_that_fills_its_disk_hears_it_and_goes_on(vmm: CommandLine) -> None:
    with machine(vmm, "qemu") as name:
        # unwritten extents fill the disk as well, and at once
        big = "while fallocate -l $s /big$i 2>/dev/null; do i=$((i+1)); done"
        more = "dd if=/dev/zero of=/more bs=1M count=8 2>&1; rm /big* /more; echo ok > /after; cat /after"
        fill = f"i=0; for s in 1G 100M 10M 1M; do {big}; done; {more}"
        said = vmm.ok("exec", name, "sh", "-c", fill, timeout_s=120)
        assert "No space left on device" in said
        assert said.endswith("ok\n")


def test_a_guest_that_hangs_is_killed_after_its_time(vmm: CommandLine) -> None:
    hang = "trap '' TERM; echo up; while :; do :; done"
    with machine(vmm, "qemu", command=("sh", "-c", hang)) as name:
        began = time.monotonic()
        done = vmm.run("stop", "-t", "1", name)
        assert done.returncode == 0
        assert time.monotonic() - began < 15
        assert vmm.ls()[name]["status"] == 137


def both(vmm: CommandLine, *commands: tuple[str, ...]) -> list[subprocess.CompletedProcess[str]]:
    """Commands begun at the same moment; how each ended."""
    asked = [
        subprocess.Popen(
            vmm.argv(*words), env=vmm.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for words in commands
    ]
    found = []
    for process, words in zip(asked, commands, strict=True):
        out, err = process.communicate(timeout=90)
        found.append(subprocess.CompletedProcess(words, process.returncode, out, err))
    return found


@pytest.mark.parametrize("driver", DRIVERS)
def test_two_commands_on_one_machine_take_turns(vmm: CommandLine, driver: str) -> None:
    with machine(vmm, driver) as name:
        vmm.ok("stop", "-t", "2", name)
        done = both(vmm, ("start", name), ("start", name))
        assert sorted(one.returncode for one in done) == [0, 1]
        told(next(one for one in done if one.returncode), 1, name, "running already")
        done = both(vmm, ("snapshot", "create", name, "s"), ("snapshot", "create", name, "s"))
        assert sorted(one.returncode for one in done) == [0, 1]
        told(next(one for one in done if one.returncode), 1, "has one of that name")
        done = both(vmm, ("stop", "-t", "2", name), ("exec", name, "sleep", "1"), ("snapshot", "ls", name))
        assert done[0].returncode == 0
        assert state(vmm, name) == "exited"
        done = both(vmm, ("rm", "-f", name), ("start", name))
        assert done[0].returncode == 0 or done[1].returncode == 0
        for one in done:
            assert "Traceback" not in one.stderr
        if name not in vmm.ls():
            vmm.ok("create", "--vm", "--network", "none", "--name", name, "tiny", "true")


def killed_after(vmm: CommandLine, words: tuple[str, ...], delay_s: float) -> None:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(vmm.argv(*words), env=vmm.env, start_new_session=True, **quiet) as process:
        time.sleep(delay_s)
        process.kill()


@pytest.mark.parametrize("driver", DRIVERS)
def test_kill_9_of_create_leaves_all_or_nothing(vmm: CommandLine, driver: str) -> None:
    if driver == "libvirt":
        need("libvirt")
    create = ("create", "--vm", "--driver", driver, "--network", "none", "--name", "half")
    vmm.ok(*create, "tiny", "true", timeout_s=180)
    vmm.ok("rm", "half")
    seed = random.randrange(1 << 32)
    moments = random.Random(seed)
    with leaks.none(vmm.home):
        for _ in range(8):
            killed_after(vmm, (*create, "tiny", "true"), moments.uniform(0.02, 0.5))
            shown = vmm.ls()
            if "half" in shown:
                assert shown["half"]["state"] == "created", seed
                vmm.ok("rm", "half")
            assert "half" not in vmm.ls(), seed
            vmm.ok(*create, "tiny", "true")
            vmm.ok("rm", "half")


@pytest.mark.parametrize("driver", [*DRIVERS, "qemu10"])
def test_kill_9_of_snapshot_leaves_a_machine_that_goes_on(
    vmm: CommandLine, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if driver == "qemu10":
        need(driver)
        path = f"{next_qemu(NEXT_QEMUS[driver])}:{vmm.env['PATH']}"
        monkeypatch.setitem(vmm.env, "PATH", path)
        driver = "qemu"
    tick = "i=0; while :; do i=$((i+1)); echo $i > /tick; sleep 0.1; done"
    with machine(vmm, driver, command=("sh", "-c", tick)) as name:
        seed = random.randrange(1 << 32)
        moments = random.Random(seed)
        for number in range(6):
            killed_after(
                vmm, ("snapshot", "create", "--memory", name, f"k{number}"), moments.uniform(0.05, 0.8)
            )
        vmm.ok("snapshot", "create", "--memory", name, "whole")
        assert state(vmm, name) == "running", seed
        assert counts_on(vmm, name), seed
        shown = json.loads(vmm.ok("snapshot", "ls", "--json", name))["snapshots"]
        for one in shown:
            vmm.ok("snapshot", "restore", name, one["tag"])
            vmm.ok("exec", name, "true")
        for one in shown:
            vmm.ok("snapshot", "rm", name, one["tag"])
        folder = vmm.home / "instances" / name
        assert not [path for path in folder.iterdir() if path.name.startswith(("memory-", "hardware-"))]
        vmm.ok("stop", "-t", "2", name)
        disk = vmm.inspect(name)["spec"]["disks"][0]["path"]
        subprocess.run(["qemu-img", "check", "-q", disk], check=True)


COPYING = {
    "clone": ("clone", "--live", "{}", "new"),
    "template": ("template", "create", "new", "{}"),
    "migrate": ("migrate", "--bandwidth", "40M", "{}"),
}


@pytest.mark.parametrize("command", COPYING)
def test_kill_9_of_what_copies_a_running_machine_leaves_it_running(vmm: CommandLine, command: str) -> None:
    """It stands still while its memory is copied, and nobody else would tell it to go on."""
    tick = "i=0; while :; do i=$((i+1)); echo $i > /tick; sleep 0.1; done"
    with machine(vmm, "qemu", "--cloneable", command=("sh", "-c", tick)) as name:
        words = tuple(word.format(name) for word in COPYING[command])
        second = paths.run_dir(vmm.home) / f".move-{name}"
        seed = random.randrange(1 << 32)
        moments = random.Random(seed)
        for _ in range(6):
            killed_after(vmm, words, moments.uniform(0.1, 0.7))
            deadline = time.monotonic() + 5
            while (second.exists() or state(vmm, name) != "running") and time.monotonic() < deadline:
                time.sleep(0.05)
            assert not second.exists(), seed
            assert counts_on(vmm, name), seed
            vmm.run("rm", "-f", "new")
            vmm.run("template", "rm", "new")
        vmm.ok(*words)
        assert counts_on(vmm, name), seed
        vmm.run("rm", "-f", "new")
        vmm.run("template", "rm", "new")


def counts_on(vmm: CommandLine, name: str) -> bool:
    """Whether the machine's number grows."""

    def number() -> int:
        while not (said := vmm.ok("exec", name, "cat", "/tick")):  # it is just being written anew
            pass
        return int(said)

    before = number()
    time.sleep(0.5)
    return number() > before


@pytest.mark.parametrize("driver", DRIVERS)
def test_kill_9_of_rm_is_finished_by_the_next(vmm: CommandLine, driver: str) -> None:
    moments = random.Random()
    for _ in range(4):
        with machine(vmm, driver) as name:
            killed_after(vmm, ("rm", "-f", name), moments.uniform(0.05, 0.4))
            shown = vmm.ls()
            assert name not in shown or shown[name]["state"] in ("running", "unresponsive", "exited"), shown
            vmm.ok("doctor", "--repair")
            if name not in vmm.ls():
                vmm.ok("create", "--vm", "--network", "none", "--name", name, "tiny", "true")
