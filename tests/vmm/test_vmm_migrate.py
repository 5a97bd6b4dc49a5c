"""A running machine moves to a fresh QEMU: nothing is lost, also when it fails half way."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from capabilities import need
from commandline import CommandLine
from machines import machine
from test_vmm_machine import inside, until_said

from host import guard, paths
from host.edges import Edges
from host.errors import Failure, Unsupported, WrongState
from vmm import migrate, stream
from vmm.machine import Machine
from vmm.monitor import JOURNAL
from vmm.spec import Forward, Nic

pytestmark = pytest.mark.machine
TICK = "echo up; i=0; while :; do i=$((i+1)); echo $i > /tick; sleep 0.1; done"
SLOW = 4 << 20  # bytes a second: a move of ten seconds and more


@pytest.fixture(autouse=True)
def _capable() -> None:
    need("root", "qemu", "kernel", "busybox", "guest-helper")


@pytest.fixture
def ticking() -> Iterator[Machine]:
    with machine("sh", "-c", TICK, nics=(Nic(forwards=(Forward(host=18090, guest=80),)),)) as it:
        it.start(Edges())
        until_said(it, b"up")
        yield it


def has_ended(pid: int) -> bool:
    """Whether the process is gone, or waits only for somebody to reap it."""
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


def ticks(it: Machine) -> int:
    """What it has counted up to; asked again where the file was just being written anew."""
    while not (said := inside(it, "cat", "/tick")[1]):
        pass
    return int(said)


def goes_on(it: Machine, before: int) -> None:
    """The same guest runs on from where it was, and writes to its disk."""
    assert it.state() == "running"
    assert ticks(it) >= before
    assert inside(it, "sh", "-c", "echo kept > /kept && sync && cat /kept") == (0, b"kept\n")
    assert [port[1] for port in it.ports()] == [18090]
    assert not migrate.place(it.run_dir).exists()


def test_it_goes_on_in_another_process(ticking: Machine) -> None:
    before, pid = ticks(ticking), ticking.pid()
    moved = migrate.migrate(ticking)
    assert ticking.pid() not in (None, pid)
    assert pid is not None
    assert has_ended(pid)
    assert moved.bytes > 10 << 20
    assert 0 < moved.downtime_s < moved.total_s
    goes_on(ticking, before)
    migrate.migrate(ticking)
    goes_on(ticking, before)
    ticking.stop(2)
    assert ticking.state() == "exited"
    subprocess.run(["qemu-img", "check", "-q", ticking.spec.disks[0].path], check=True)


def second(it: Machine) -> int:
    """The pid of the second QEMU, once it is there."""
    file, deadline = migrate.place(it.run_dir) / "pid", time.monotonic() + 20
    while time.monotonic() < deadline:
        if file.exists() and file.read_text().strip():
            return int(file.read_text())
        time.sleep(0.02)
    raise AssertionError("no second QEMU came up")


def test_a_second_qemu_that_dies_half_way_changes_nothing(ticking: Machine) -> None:
    before, pid = ticks(ticking), ticking.pid()

    def kill() -> None:
        there = second(ticking)
        time.sleep(1)
        os.kill(there, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(Failure, match="cannot migrate") as told:
        migrate.migrate(ticking, SLOW)
    killer.join()
    assert "goes on where it was" in told.value.told()
    assert ticking.pid() == pid
    goes_on(ticking, before)


@pytest.fixture
def unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the command's guard had been killed too."""
    monkeypatch.setattr(guard, "guarded", lambda undo: contextlib.nullcontext())


def killed_on_the_way(it: Machine) -> int:
    """Kill a migration in the middle; the pid of the second QEMU."""
    child = os.fork()
    if child == 0:
        try:
            migrate.migrate(it, SLOW)
        finally:
            os._exit(0)
    there = second(it)
    while '"fd:stream"' not in (it.run_dir / JOURNAL).read_text():
        time.sleep(0.01)
    time.sleep(0.2)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return there


@pytest.mark.usefixtures("unguarded")
def test_a_killed_command_is_settled_by_the_next(ticking: Machine) -> None:
    before, pid = ticks(ticking), ticking.pid()
    there = killed_on_the_way(ticking)
    assert ticking.pid() == pid
    moved = migrate.migrate(Machine(ticking.folder, ticking.run_dir, ticking.spec))
    assert moved.bytes > 0
    assert has_ended(there)
    goes_on(ticking, before)


@pytest.mark.usefixtures("unguarded")
def test_a_settled_machine_can_migrate_at_once(ticking: Machine) -> None:
    """QEMU sees late that nobody listens any more, and takes no orders before it has."""
    before = ticks(ticking)
    for _ in range(5):
        killed_on_the_way(ticking)
        migrate.settle(ticking.driver)
        with ticking.driver.control() as source:
            assert source.execute("query-migrate")["status"] in ("failed", "cancelled")
    goes_on(ticking, before)


@pytest.mark.usefixtures("unguarded")
def test_a_command_killed_once_all_was_sent_leaves_no_guest_standing(
    ticking: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, first = ticks(ticking), ticking.pid()

    def sent(*given: Any, **named: Any) -> dict[str, Any]:
        hand_over(*given, **named)
        os._exit(9)

    hand_over = stream.hand_over
    monkeypatch.setattr(stream, "hand_over", sent)
    child = os.fork()
    if child == 0:
        migrate.migrate(ticking)
    os.waitpid(child, 0)
    monkeypatch.setattr(stream, "hand_over", hand_over)
    assert ticking.state() == "paused"
    assert ticking.pid() == first
    migrate.migrate(ticking)
    goes_on(ticking, before)


def test_what_cannot_be_in_two_processes_is_refused() -> None:
    with machine("true") as it:
        with pytest.raises(WrongState, match="does not run"):
            migrate.migrate(it)
        bridged = Machine(it.folder, it.run_dir, it.spec._replace(nics=(Nic(kind="network", network="n"),)))
        with pytest.raises(Unsupported, match="two QEMUs"):
            migrate.migrate(bridged)


def test_the_command_tells_what_it_cost(home: Path) -> None:
    vmm = CommandLine(home)
    home.parent.chmod(0o755)
    try:
        run = ("run", "-d", "--vm", "--network", "none", "--name", "m", "--boot", "microvm")
        vmm.ok(*run, "tiny", "sleep", "600", timeout_s=120)
        said = vmm.ok("migrate", "m")
        assert said.startswith("m: stood still for ")
        assert "went over" in said
        assert vmm.ok("exec", "m", "echo", "in") == "in\n"
        assert not (paths.run_dir(home) / ".move-m").exists()
    finally:
        vmm.run("rm", "-f", "m")
