"""What changes in a running machine, by both drivers: snapshots, hotplug, forwards, files."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from capabilities import need
from machines import chosen, machine
from test_vmm_machine import inside, log_of, until_said

from host import commands
from host.edges import Edges
from host.errors import Failure, InUse, NotFound, Unsupported, WrongState
from vmm import resize, snapshots
from vmm.machine import Machine
from vmm.spec import Disk, Forward, Nic

pytestmark = pytest.mark.machine
TICK = "echo up; i=0; while :; do i=$((i+1)); echo $i > /tick; sleep 0.1; done"


@pytest.fixture(params=["qemu", pytest.param("libvirt", marks=pytest.mark.slow)], scope="module")
def live(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A q35 machine with spare places, running a counter."""
    need(
        "root",
        "qemu",
        "kernel",
        "busybox",
        "guest-helper",
        *(["libvirt"] if request.param == "libvirt" else []),
    )
    born = {"spare_ports": 4, "balloon": True, "max_memory_bytes": 512 << 20, "max_cpus": 2, "nics": (Nic(),)}
    with machine("sh", "-c", TICK, driver=request.param, boot="pvh", **born) as it:
        it.start(Edges())
        until_said(it, b"up")
        yield it


def ticks(it: Machine) -> int:
    return int(inside(it, "cat", "/tick")[1] or b"0")


def test_a_snapshot_with_memory_brings_the_running_machine_back(live: Machine) -> None:
    snapshots.create(live, "mem", memory=True)
    before = ticks(live)
    inside(live, "sh", "-c", "echo later > /later")
    time.sleep(1)
    later = ticks(live)
    snapshots.restore(live, "mem")
    assert before - 3 <= ticks(live) < later
    assert inside(live, "cat", "/later")[0] != 0
    assert live.state() == "running"
    with pytest.raises(InUse, match="has one of that name"):
        snapshots.create(live, "mem", memory=False)
    snapshots.delete(live, "mem")
    assert snapshots.listed(live) == []
    with pytest.raises(NotFound):
        snapshots.restore(live, "mem")


def test_disks_are_not_pulled_from_under_a_running_guest(live: Machine) -> None:
    snapshots.create(live, "disk", memory=False)
    with pytest.raises(WrongState, match="would not know"):
        snapshots.restore(live, "disk")
    snapshots.delete(live, "disk")


def test_a_second_processor_and_more_memory_arrive_in_the_guest(live: Machine) -> None:
    def total_kib() -> int:
        return int(inside(live, "grep", "MemTotal", "/proc/meminfo")[1].split()[1])

    resize.set_cpus(live, 2)
    assert inside(live, "nproc") == (0, b"2\n")
    before = total_kib()
    live.update(memory_bytes=256 << 20)
    deadline = time.monotonic() + 10
    while total_kib() == before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert total_kib() - before == pytest.approx(128 << 10, rel=0.1)
    with pytest.raises(Unsupported, match="born for 2"):
        resize.set_cpus(live, 3)


def test_a_disk_and_a_card_come_and_go(live: Machine) -> None:
    path = live.folder / "extra.qcow2"
    commands.run(("qemu-img", "create", "-q", "-f", "qcow2", str(path), "64M"), "cannot make the disk")
    before = inside(live, "ls", "/sys/block")[1]
    resize.add_disk(live, Disk(path=str(path)), "x")
    resize.add_nic(live, Nic(), "n")
    time.sleep(0.5)
    assert inside(live, "ls", "/sys/block")[1].split() != before.split()
    assert b"eth1" in inside(live, "ls", "/sys/class/net")[1]
    resize.remove(live, "x")
    resize.remove(live, "n")
    assert inside(live, "ls", "/sys/block")[1] == before
    assert b"eth1" not in inside(live, "ls", "/sys/class/net")[1]


def test_a_forward_is_added_and_removed_live(live: Machine) -> None:
    asked = Forward(host=18080, guest=80)
    live.forward(asked)
    assert live.ports() == [("127.0.0.1", 18080, 80, "tcp")]
    with pytest.raises(InUse):
        live.forward(asked)
    live.unforward(asked)
    assert live.ports() == []
    with pytest.raises(NotFound):
        live.unforward(asked)


def test_files_go_in_and_come_out(live: Machine, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "file").write_bytes(b"\0\1" * 100_000)
    live.copy_in(tree, "/copied")
    live.copy_out("/copied", tmp_path / "back")
    assert (tmp_path / "back" / "sub" / "file").read_bytes() == (tree / "sub" / "file").read_bytes()
    with pytest.raises(NotFound, match="No such file or directory"):
        live.copy_out("/nothing", tmp_path / "nothing")


def test_what_it_uses_is_told(live: Machine) -> None:
    told = live.stats()
    assert told["cpu_ns"] > 0
    assert told["memory_bytes"] > 50 << 20
    assert told["block_read_bytes"] > 0
    assert live.top()[0][0] == "PID"
    live.execute("query-name")
    text = live.explain()
    assert f"pid {live.pid()}" in text
    assert "<domain" in text
    assert "--boot microvm" in text
    assert "guest helper: yes" in text
    assert " ms  the guest's kernel until its init" in text
    assert "query-name" in text  # what we asked of QEMU
    if live.spec.driver == "qemu":
        assert f"/{live.run_dir.parent.name}-{live.folder.name}" in text  # its cgroup


def test_a_machine_without_a_screen_says_what_it_has(live: Machine, tmp_path: Path) -> None:
    from vmm import screenshot

    with pytest.raises(Unsupported) as told:
        screenshot.take(live, tmp_path / "shot.png")
    assert "vmm console" in told.value.hint


def test_a_microvm_has_no_hotplug_and_says_so() -> None:
    need("root", "qemu", "kernel", "busybox", "guest-helper")
    with machine("sleep", "60") as it:
        it.start(Edges())
        with pytest.raises(Unsupported, match="no PCI hotplug"):
            resize.add_nic(it, Nic(), "n")
        with pytest.raises(Failure, match="memory slots"):
            it.update(memory_bytes=256 << 20)


def test_a_stopped_machine_goes_on_from_its_memory() -> None:
    need("root", "qemu", "kernel", "busybox", "guest-helper")
    with machine("sh", "-c", TICK) as it:
        it.start(Edges())
        until_said(it, b"up")
        snapshots.create(it, "mem", memory=True)
        kept = ticks(it)
        it.kill()
        assert it.state() == "exited"
        snapshots.restore(it, "mem")
        assert it.state() == "running"
        time.sleep(0.5)
        assert kept <= ticks(it) < kept + 100


@pytest.mark.parametrize(
    "driver",
    [
        "qemu",
        pytest.param("libvirt", marks=pytest.mark.slow),
        pytest.param("qemu10", marks=pytest.mark.slow),
    ],
)
def test_snapshots_from_before_and_after_an_update_both_come_back(
    driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("root", "qemu", "kernel", "busybox", "guest-helper", *(["libvirt"] if driver == "libvirt" else []))
    driver = chosen(driver, monkeypatch)

    def size(it: Machine) -> tuple[int, int]:
        return int(inside(it, "nproc")[1]), int(inside(it, "grep", "MemTotal", "/proc/meminfo")[1].split()[1])

    born = {"spare_ports": 4, "balloon": True, "max_cpus": 2, "nics": (Nic(),)}
    born |= {"memory_bytes": 128 << 20, "max_memory_bytes": 512 << 20}
    with machine("sh", "-c", TICK, driver=driver, boot="pvh", **born) as it:
        it.start(Edges())
        until_said(it, b"up")
        small = size(it)
        snapshots.create(it, "before", memory=True)
        it.update(memory_bytes=256 << 20, cpus=2)
        large = size(it)
        assert large[0] == 2
        assert large[1] > small[1] + (100 << 10)
        snapshots.create(it, "after", memory=True)
        kept = ticks(it)
        snapshots.restore(it, "before")  # it runs, with hardware that this snapshot does not know
        assert size(it) == small
        assert ticks(it) < kept
        snapshots.restore(it, "after")
        assert size(it) == large
        it.kill()
        snapshots.restore(it, "after")  # and out of nothing
        assert size(it) == large
        assert it.state() == "running"
        snapshots.delete(it, "after")
        assert not list(it.folder.glob("hardware-after*"))


@pytest.mark.parametrize("driver", ["qemu", pytest.param("libvirt", marks=pytest.mark.slow)])
def test_the_reset_button_starts_the_command_anew(driver: str) -> None:
    need("root", "qemu", "kernel", "busybox", "guest-helper", *(["libvirt"] if driver == "libvirt" else []))
    with machine(
        "sh", "-c", "echo up $(cat /proc/sys/kernel/random/boot_id); sleep 1000", driver=driver
    ) as it:
        it.start(Edges())
        until_said(it, b"up")
        pid = it.pid()
        it.reset()
        assert it.pid() == pid
        assert it.state() == "running"
        deadline = time.monotonic() + 20
        while len(log_of(it).split()) < 4 and time.monotonic() < deadline:
            time.sleep(0.1)
        words = log_of(it).split()
        assert words[0::2] == [b"up", b"up"]
        assert words[1] != words[3], "the kernel booted anew"
        it.stop(5)
        assert it.state() == "exited"


def test_space_that_the_guest_has_freed_goes_back_to_the_host() -> None:
    need("root", "qemu", "kernel", "busybox", "guest-helper")
    with machine("sh", "-c", "echo up; sleep 1000") as it:
        it.start(Edges())
        until_said(it, b"up")
        write = "dd if=/dev/urandom of=/big bs=1M count=40 2>/dev/null && sync"
        assert inside(it, "sh", "-c", write)[0] == 0
        assert inside(it, "sh", "-c", "rm /big; sync")[0] == 0
        before, after = it.compact()
        assert before - after > 30 << 20
        inside(it, "sh", "-c", "dd if=/dev/zero of=/big bs=1M count=40 2>/dev/null; sync; rm /big; sync")
        it.kill()
        before, after = it.compact()
        assert before - after > 30 << 20
        it.start(Edges())  # it is whole
        until_said(it, b"up")
