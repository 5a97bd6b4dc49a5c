"""What goes wrong on the host while a machine runs: a full disk, broken and missing images, taken ports."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from capabilities import need
from machines import QUIET, machine
from test_vmm_machine import inside, log_of

from host.edges import Edges
from host.errors import Failure, HostUnfit
from vmm.machine import Machine
from vmm.spec import Disk, Forward, Nic, replace

pytestmark = pytest.mark.machine


@pytest.fixture(autouse=True)
def _capable() -> None:
    need("root", "qemu", "kernel", "busybox", "guest-helper")


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 4 MiB that QEMU's own user can pass."""
    with tempfile.TemporaryDirectory(prefix="vmm-full-", dir="/var/tmp") as folder:
        os.chmod(folder, 0o755)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=755", "tmpfs", folder], check=True)
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "-l", folder], check=True)


def with_spec(it: Machine, **changes: object) -> Machine:
    return Machine(it.folder, it.run_dir, replace(it.spec, **changes))


def until(it: Machine, state: str) -> None:
    deadline = time.monotonic() + 20
    while it.state() != state:
        assert time.monotonic() < deadline, f"it is {it.state()}, not {state}"
        time.sleep(0.05)


def test_a_full_disk_of_the_host_pauses_the_machine_and_nothing_is_lost(small_disk: Path) -> None:
    path = small_disk / "data.raw"
    path.touch()
    os.truncate(path, 32 << 20)
    path.chmod(0o666)
    write = "dd if=/w of=/dev/vdb bs=64k conv=fsync 2>/dev/null"
    script = f"head -c 12582912 /dev/urandom > /w; {write}; sha256sum < /w"
    with machine("sh", "-c", script) as made:
        it = with_spec(made, disks=(*made.spec.disks, Disk(path=str(path), format="raw")))
        it.start(Edges())
        until(it, "paused")
        assert "free space on the host" in it.inspect()["trouble"]
        subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
        it.resume()
        assert it.wait(30) == 0
        written = subprocess.run(["head", "-c", "12582912", path], capture_output=True, check=True).stdout
        assert log_of(it).split()[0].decode() == _digest(written)


def _digest(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda disk: disk.unlink(), "No such file"),
        (lambda disk: disk.write_bytes(b"not a disk" * 1000), "not in qcow2 format"),
        (lambda disk: os.truncate(disk, 100), "qcow2|truncated|header"),
    ],
)
def test_a_broken_image_is_told_in_qemus_words_and_nothing_runs(harm: object, words: str) -> None:
    with machine("true", ephemeral=True) as it:
        harm(it.folder / "disk.qcow2")  # type: ignore[operator]
        with pytest.raises(Failure, match=words):
            it.run(QUIET, Edges())
        assert it.pid() is None


def test_a_backing_file_that_was_moved_is_named() -> None:
    with machine("true", ephemeral=True) as it:
        disk = it.folder / "disk.qcow2"
        gone = it.folder / "base.qcow2"
        subprocess.run(["qemu-img", "rebase", "-u", "-b", gone, "-F", "qcow2", disk], check=True)
        with pytest.raises(Failure, match=r"base\.qcow2"):
            it.run(QUIET, Edges())


def test_a_taken_port_is_told_before_the_guest_boots() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, machine("true", ephemeral=True) as made:
        port = taken.getsockname()[1]
        it = with_spec(made, nics=(Nic(forwards=(Forward(host=port, guest=80),)),))
        with pytest.raises(Failure, match=f"{port}"):
            it.run(QUIET, Edges())
        assert it.pid() is None


def test_libvirts_user_meets_a_closed_folder_before_the_start_with_the_remedy() -> None:
    need("libvirt")
    with machine("true", ephemeral=True, driver="libvirt") as it:
        it.folder.chmod(0o700)
        with pytest.raises(HostUnfit) as told:
            it.run(QUIET, Edges())
        assert f"chmod o+x {it.folder}" in told.value.hint
        it.folder.chmod(0o755)


def test_a_domain_that_virsh_destroyed_is_shown_as_it_is() -> None:
    need("libvirt")
    with machine("sleep", "60", driver="libvirt") as it:
        it.start(Edges())
        name = f"{it.folder.name}-{it.run_dir.parent.name[:6]}"
        subprocess.run(
            ["virsh", "-q", "-c", "qemu:///system", "suspend", name], check=True, capture_output=True
        )
        assert it.state() == "paused"
        subprocess.run(
            ["virsh", "-q", "-c", "qemu:///system", "resume", name], check=True, capture_output=True
        )
        assert it.state() == "running"
        assert inside(it, "true")[0] == 0
        subprocess.run(
            ["virsh", "-q", "-c", "qemu:///system", "destroy", name], check=True, capture_output=True
        )
        assert it.state() == "exited"
