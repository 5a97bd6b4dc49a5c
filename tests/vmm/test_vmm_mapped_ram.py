"""Memory kept in a file of its own by a QEMU that has mapped-ram, in the disk by others; what goes wrong."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from capabilities import need
from machines import chosen, machine
from test_vmm_machine import inside, until_said

from host.edges import Edges
from host.errors import BadData, Failure, NotFound, Unsupported
from vmm import hardware, mapped_ram, offers, snapshots
from vmm.machine import Machine
from vmm.spec import Forward, Nic

pytestmark = pytest.mark.machine
TICK = "i=$((i+1)); echo $i > /run/i.new; mv /run/i.new /run/i; sleep 0.1"
COUNT = f"mkdir -p /run; echo up; i=0; while :; do {TICK}; done"


@pytest.fixture(autouse=True)
def _capable() -> None:
    need("root", "qemu", "kernel", "busybox", "guest-helper")


@pytest.fixture
def newer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The QEMU of the parameter (10) in front of PATH."""
    return chosen(getattr(request, "param", "qemu10"), monkeypatch)


@pytest.fixture
def it(newer: str) -> Iterator[Machine]:
    """A machine that counts in its memory, and has a snapshot `mem` of it."""
    with machine("sh", "-c", COUNT, boot="pvh", nics=(Nic(forwards=(Forward(0, 81),)),)) as made:
        made.start(Edges())
        until_said(made, b"up")
        yield made


def count(it: Machine) -> int:
    return int(inside(it, "cat", "/run/i")[1])


def later(it: Machine) -> None:
    assert inside(it, "sh", "-c", "echo later > /later; sync")[0] == 0


def is_later(it: Machine) -> bool:
    return inside(it, "test", "-e", "/later")[0] == 0


def left(it: Machine) -> list[str]:
    return sorted(path.name for path in it.folder.iterdir() if "mem" in path.name or "half" in path.name)


@pytest.mark.parametrize("newer", ["qemu10", pytest.param("qemu11", marks=pytest.mark.slow)], indirect=True)
def test_memory_goes_into_a_file_and_comes_back_from_it(it: Machine) -> None:
    it.forward(Forward(host=0, guest=80))
    given = it.ports()
    assert sorted(one[2] for one in given) == [80, 81]
    snapshots.create(it, "mem", memory=True)
    [kept] = snapshots.listed(it)
    assert kept.memory_format == "mapped-ram"
    assert 20 << 20 < kept.memory_bytes <= mapped_ram.file(it.folder, "mem").stat().st_size
    assert mapped_ram.file(it.folder, "mem").stat().st_mode & 0o777 == 0o600
    before = count(it)
    later(it)
    pid = it.pid()
    assert snapshots.restore(it, "mem") == "mapped-ram"
    assert it.pid() != pid
    assert before - 3 <= count(it) < before + 30
    assert not is_later(it)
    assert sorted(it.ports()) == sorted(given), "also the port that QEMU chose, and the one that was added"
    later(it)
    it.kill()
    assert snapshots.restore(it, "mem") == "mapped-ram", "and a second time, out of nothing"
    assert not is_later(it)
    assert it.state() == "running"
    snapshots.create(it, "mem2", memory=True)  # of a machine that was loaded itself
    assert snapshots.restore(it, "mem2") == "mapped-ram"
    snapshots.delete(it, "mem")
    snapshots.delete(it, "mem2")
    assert snapshots.listed(it) == []
    assert left(it) == []
    states = {one["capability"]: one["state"] for one in it.execute("query-migrate-capabilities")}
    on = [name for name, state in states.items() if state]
    assert not on, "other migrations go to no file"


def test_an_older_qemu_keeps_memory_in_the_disk_and_a_newer_one_loads_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    need("qemu10")
    if offers.of("qemu-system-x86_64").mapped_ram:
        pytest.skip("this host's own QEMU has mapped-ram")
    with machine("sh", "-c", COUNT, boot="pvh") as it:
        it.start(Edges())
        until_said(it, b"up")
        snapshots.create(it, "mem", memory=True)
        assert [one.memory_format for one in snapshots.listed(it)] == ["vmstate"]
        later(it)
        assert snapshots.restore(it, "mem") == "vmstate"
        assert not is_later(it)
        it.kill()
        with monkeypatch.context() as newer:
            chosen("qemu10", newer)
            assert snapshots.restore(it, "mem") == "vmstate", "as the machine type of its time"
            assert it.execute("query-version")["qemu"]["major"] == 10
            snapshots.create(it, "mem10", memory=True)
            it.kill()
        later_disk = Path(it.spec.disks[0].path).read_bytes()
        with pytest.raises(Unsupported, match="which this one has not"):
            snapshots.restore(it, "mem10")
        assert it.state() == "exited"
        assert Path(it.spec.disks[0].path).read_bytes() == later_disk, "refused before anything was changed"
        assert snapshots.restore(it, "mem") == "vmstate"
        with pytest.raises(Unsupported, match="which this one has not"):
            snapshots.restore(it, "mem10")
        assert it.state() == "running", "a machine that runs is not ended for nothing"


def test_a_file_that_is_damaged_costs_nothing_but_the_snapshot(it: Machine) -> None:
    snapshots.create(it, "mem", memory=True)
    later(it)
    path = mapped_ram.file(it.folder, "mem")
    whole = path.stat().st_size
    os.truncate(path, whole - 4096)
    with pytest.raises(BadData, match="were written"):
        snapshots.restore(it, "mem")
    assert it.state() == "running"
    with path.open("r+b") as file:
        file.write(bytes(4096))
        file.truncate(whole)
    it.stop(5)
    with pytest.raises(Failure, match=r"m-.*: QEMU ended|did not start"):
        snapshots.restore(it, "mem")
    assert it.state() == "exited"
    it.start(Edges())
    assert is_later(it), "the disk is as it was"
    path.unlink()
    with pytest.raises(NotFound, match="is gone"):
        snapshots.restore(it, "mem")
    assert [one.memory_format for one in snapshots.listed(it)] == ["mapped-ram"]
    snapshots.delete(it, "mem")
    assert left(it) == []


def test_what_a_kill_of_all_that_could_settle_it_left_is_settled_by_the_next(it: Machine) -> None:
    """Command and guardian die together only where somebody means it; then the guest stands still."""
    before = count(it)
    hardware.keep(it, "half")
    mapped_ram.file(it.folder, "half").with_suffix(".ram.new").write_bytes(b"half")
    it.execute("stop")
    data = [{"device": node, "name": "half"} for node in snapshots.live_nodes(it)]
    actions = [{"type": "blockdev-snapshot-internal-sync", "data": one} for one in data]
    it.execute("transaction", {"actions": actions})
    assert snapshots.listed(it) == [], "what is half made is not shown"
    snapshots.create(it, "mem", memory=True)
    assert [one.tag for one in snapshots.listed(it)] == ["mem"]
    assert it.state() == "running"
    assert count(it) >= before
    assert left(it) == ["hardware-mem.json", "memory-mem.ram"]
    it.kill()
    mapped_ram.file(it.folder, "half").with_suffix(".ram.new").write_bytes(b"half")
    words = ("qemu-img", "snapshot", "-c", "half", it.spec.disks[0].path)
    subprocess.run(words, check=True)
    snapshots.delete(it, "mem")
    told = subprocess.run(
        ("qemu-img", "snapshot", "-l", words[-1]), check=True, capture_output=True, text=True
    )
    assert "half" not in told.stdout
    assert left(it) == []


def test_what_cannot_be_in_a_file_is_kept_in_the_disk(it: Machine) -> None:
    it.pause()
    snapshots.create(it, "mem", memory=True)
    assert it.state() == "paused"
    it.resume()
    assert [one.memory_format for one in snapshots.listed(it)] == ["vmstate"]
    assert snapshots.restore(it, "mem") == "vmstate"


def test_who_asks_what_qemu_has_is_told(newer: str) -> None:
    found = offers.of("qemu-system-x86_64")
    assert found.version.startswith("10.")
    assert found.mapped_ram
    assert not found.on_demand
    assert "postcopy" in found.why_not
