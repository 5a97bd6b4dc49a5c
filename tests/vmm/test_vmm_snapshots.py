"""Snapshots by both drivers, of UEFI machines too, and on a disk of the host that fills."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from capabilities import need
from machines import chosen, machine
from test_vmm_machine import inside, until_said

from host import commands
from host.edges import Edges
from host.errors import Failure, NotFound, WrongState
from vmm import snapshots
from vmm.machine import Machine
from vmm.spec import Disk

pytestmark = pytest.mark.machine
SLEEP = "echo up; exec sleep 600"
DRIVERS = ["qemu", pytest.param("libvirt", marks=pytest.mark.slow)]


@pytest.fixture(autouse=True)
def _capable(request: pytest.FixtureRequest) -> None:
    need("root", "qemu", "kernel", "busybox", "guest-helper")
    if "libvirt" in request.node.name:
        need("libvirt")


def up(it: Machine) -> None:
    it.start(Edges())
    until_said(it, b"up")


@pytest.mark.slow
@pytest.mark.parametrize("driver", [*DRIVERS, "qemu10"])
def test_a_uefi_machine_goes_back_with_its_memory_and_its_variables(
    driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("ovmf")
    driver = chosen(driver, monkeypatch)
    with machine("sh", "-c", SLEEP, driver=driver, boot="uefi", memory_bytes=256 << 20) as it:
        up(it)
        variables = Path(it.spec.firmware_vars)
        snapshots.create(it, "mem", memory=True)
        kept = variables.read_bytes()
        inside(it, "sh", "-c", "echo later > /later")
        snapshots.restore(it, "mem")
        assert it.state() == "running"
        assert inside(it, "cat", "/later")[0] != 0
        it.stop(3)
        variables.write_bytes(b"\0" * len(kept))
        snapshots.restore(it, "mem")
        assert it.state() == "running"
        assert variables.read_bytes() == kept
        assert inside(it, "cat", "/later")[0] != 0
        snapshots.delete(it, "mem")
        assert snapshots.listed(it) == []
        assert not list(it.folder.glob("vars-*"))


@pytest.mark.parametrize("driver", DRIVERS)
def test_disks_alone_are_kept_live_and_go_back_once_it_is_stopped(driver: str) -> None:
    with machine("sh", "-c", SLEEP, driver=driver) as it:
        up(it)
        inside(it, "sh", "-c", "echo early > /early; sync")
        snapshots.create(it, "disk", memory=False)
        inside(it, "sh", "-c", "echo late > /late; sync")
        snapshots.create(it, "second", memory=False)
        with pytest.raises(WrongState, match="would not know"):
            snapshots.restore(it, "disk")
        it.stop(3)
        snapshots.restore(it, "disk")
        assert [one.tag for one in snapshots.listed(it)] == ["disk", "second"]
        up(it)
        assert inside(it, "cat", "/early")[1] == b"early\n"
        assert inside(it, "cat", "/late")[0] != 0
        snapshots.delete(it, "disk")
        assert [one.tag for one in snapshots.listed(it)] == ["second"], "deleting one leaves the other"
        it.stop(3)
        snapshots.restore(it, "second")
        up(it)
        assert inside(it, "cat", "/late")[1] == b"late\n"


def test_a_disk_that_is_compacted_keeps_its_snapshots() -> None:
    with machine("sh", "-c", SLEEP) as it:
        up(it)
        inside(it, "sh", "-c", "echo early > /early; sync")
        it.stop(3)
        snapshots.create(it, "disk", memory=False)
        it.compact()
        assert [one.tag for one in snapshots.listed(it)] == ["disk"]
        snapshots.restore(it, "disk")
        up(it)
        assert inside(it, "cat", "/early")[1] == b"early\n"


def test_a_name_that_is_none_is_told() -> None:
    with machine("true") as it, pytest.raises(NotFound, match="has none of that name"):
        snapshots.restore(it, "nosuch")


@pytest.fixture
def small() -> Iterator[Path]:
    """A file system of 160 MiB on a loop device that QEMU's own user can pass."""
    with tempfile.TemporaryDirectory(prefix="vmm-small-", dir="/var/tmp") as folder:
        image, there = Path(folder, "image"), Path(folder, "mnt")
        os.chmod(folder, 0o755)
        there.mkdir()
        with image.open("wb") as file:
            file.truncate(160 << 20)
        commands.run(("mkfs.ext4", "-q", "-m", "0", str(image)), "cannot make the file system")
        subprocess.run(["mount", "-o", "loop", image, there], check=True)
        try:
            yield there
        finally:
            subprocess.run(["umount", "-l", there], check=True)


@pytest.mark.parametrize("driver", [*DRIVERS, "qemu10"])
def test_a_disk_of_the_host_that_fills_while_the_memory_is_kept(
    driver: str, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snapshot is refused whole; with space the machine goes on, and the snapshot works."""
    driver = chosen(driver, monkeypatch)
    with machine("sh", "-c", SLEEP, driver=driver) as made:
        folder = small / made.folder.name
        folder.mkdir()
        disk = folder / "disk.qcow2"
        (made.folder / "disk.qcow2").rename(made.folder / "base.qcow2")
        words = ("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", f"{made.folder}/base.qcow2")
        commands.run((*words, str(disk)), "cannot make the disk")
        disk.chmod(0o666)
        it = Machine(folder, made.run_dir, made.spec._replace(disks=(Disk(path=str(disk)),)))
        up(it)
        filler = small / "filler"
        filler.write_bytes(b"\1" * (snapshots._free_bytes(small) - (12 << 20)))
        with pytest.raises(Failure, match="are free where its disk lies"):
            snapshots.create(it, "mem", memory=True)
        assert snapshots.listed(it) == []
        assert not list(folder.glob("*-mem*"))
        filler.unlink()
        if it.state() == "paused":  # the guest wrote meanwhile, and could not
            assert "free space on the host" in it.inspect()["trouble"]
            it.resume()
        assert inside(it, "sh", "-c", "echo x > /x && sync")[0] == 0
        snapshots.create(it, "mem", memory=True)
        assert [one.tag for one in snapshots.listed(it)] == ["mem"]
        it.remove()
        checked = subprocess.run(["qemu-img", "check", "-q", disk], check=False)
        assert checked.returncode in (0, 3), "3: space that nobody uses, and nothing damaged (qemu-img(1))"
        it.compact()
        subprocess.run(["qemu-img", "check", "-q", disk], check=True)
        assert [one.tag for one in snapshots.listed(it)] == ["mem"]
