"""Disks and cards that come and go by `vmm update`: live, from the next start, and what cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
from capabilities import need
from commandline import CommandLine

pytestmark = pytest.mark.machine


def disks(vmm: CommandLine) -> list[str]:
    script = "for d in /sys/block/vd*; do echo $(cat $d/serial)=$(cat $d/size); done"
    return vmm.ok("exec", "m", "sh", "-c", script).split()


def test_a_disk_and_a_card_come_and_go(home: Path, tmp_path: Path) -> None:
    need("root", "qemu", "kernel", "guest-helper", "busybox")
    for folder in (tmp_path, *list(tmp_path.parents)[:2]):
        folder.chmod(0o711)
    vmm = CommandLine(home)
    vmm.ok("run", "--vm", "-d", "--name", "m", "--boot", "pvh", "tiny", "sleep", "1000")
    born = disks(vmm)
    assert vmm.ok("update", "m", "--add-disk", "data=8M", "--add-nic", "lan") == "m: in force\n"
    assert disks(vmm) == [*born, f"data={8 << 11}"]
    assert "eth1" in vmm.ok("exec", "m", "ls", "/sys/class/net")
    again = vmm.run("update", "m", "--add-disk", "data=8M")
    assert again.returncode == 1
    assert "has one of that name" in again.stderr
    assert vmm.ok("update", "m", "--remove-disk", "data", "--remove-nic", "lan") == "m: in force\n"
    assert disks(vmm) == born
    assert "eth1" not in vmm.ok("exec", "m", "ls", "/sys/class/net")
    assert not list((home / "instances" / "m").glob("extra-*"))

    vmm.ok("stop", "-t", "0", "m")
    assert vmm.ok("update", "m", "--add-disk", "data=8M") == "m: from its next start\n"
    vmm.ok("start", "m")
    assert disks(vmm) == [*born, f"data={8 << 11}"]
    kept = vmm.run("update", "m", "--remove-disk", "data")
    assert kept.returncode == 1
    assert "started with it" in kept.stderr
    assert "vmm stop m" in kept.stderr
    vmm.ok("rm", "-f", "m")


def test_words_and_kinds_that_cannot_be(home: Path, tmp_path: Path) -> None:
    need("qemu", "kernel", "guest-helper", "busybox")
    vmm = CommandLine(home)
    vmm.ok("create", "--vm", "--name", "m", "--network", "none", "tiny", "true")
    vmm.ok("create", "--name", "c", "tiny", "true")
    (tmp_path / "noise").write_bytes(b"noise" * 1000)
    for words, status, why in (
        (("m", "--add-disk", "data"), 2, "not NAME=SIZE"),
        (("m", "--add-disk", "Data=1M"), 2, "a-z, 0-9"),
        (("m", "--add-disk", "data=much"), 2, "much"),
        (("m", "--add-disk", f"data={tmp_path}/nothing"), 1, "no disk at"),
        (("m", "--add-disk", f"data={tmp_path}/noise"), 1, "no known format"),
        (("m", "--remove-disk", "data"), 1, "none of that name"),
        (("m", "--add-nic", "lan"), 1, "does not run"),
        (("c", "--add-disk", "data=1M"), 1, "it is a container"),
    ):
        done = vmm.run("update", *words)
        assert done.returncode == status, (words, done.stderr)
        assert why in done.stderr, (words, done.stderr)
    assert len(vmm.inspect("m")["spec"]["disks"]) == 1
    assert not list((home / "instances" / "m").glob("extra-*"))


def test_a_volume_is_the_same_for_both_kinds(home: Path, tmp_path: Path) -> None:
    need("root", "qemu", "kernel", "guest-helper", "busybox", "virtiofsd")
    for folder in (tmp_path, *list(tmp_path.parents)[:2]):
        folder.chmod(0o711)
    vmm = CommandLine(home)
    vmm.ok("run", "--rm", "--network", "none", "-v", "data:/srv", "tiny", "sh", "-c", "echo ct > /srv/said")
    words = ("run", "--vm", "--rm", "--network", "none")
    script = "cat /srv/said; echo vm >> /srv/said"
    assert vmm.ok(*words, "-v", "data:/srv", "tiny", "sh", "-c", script) == "ct\n"
    denied = vmm.run(*words, "-v", "data:/srv:ro", "tiny", "sh", "-c", "echo no > /srv/said")
    assert denied.returncode == 1
    assert "Read-only" in denied.stderr
    read = ("run", "--rm", "--network", "none", "-v", "data:/srv", "tiny", "cat", "/srv/said")
    assert vmm.ok(*read) == "ct\nvm\n"
