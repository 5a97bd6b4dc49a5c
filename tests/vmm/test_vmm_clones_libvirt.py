"""Clones of a template through libvirt: seen by virsh, not alike, and of frozen memory that they share."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from capabilities import need
from machines import image, shared_home
from own_libvirt import Libvirt, own_libvirt

pytestmark = [pytest.mark.machine, pytest.mark.slow]
RUN = ("run", "--vm", "--driver", "libvirt", "--network", "none", "--memory", "128M", "--accel", "tcg")


@pytest.fixture(scope="module")
def vmm() -> Iterator[Libvirt]:
    """`vmm` with a libvirt that nobody else sees."""
    need("root", "libvirt", "qemu", "kernel", "busybox", "guest-helper")
    with own_libvirt(shared_home()) as there:
        yield there


def test_clones_through_libvirt_are_domains_of_one_frozen_memory(vmm: Libvirt) -> None:
    names = ("lv-c1", "lv-c2")
    try:
        vmm.ok(*RUN, "--rm", "tiny", "true")  # makes the template where there is none
        for name in names:
            told = vmm.run(*RUN, "--verbose", "-d", "--name", name, "tiny", "sleep", "600")
            assert "a clone of the template" in told.stderr, told.stderr
        domains = vmm.virsh("list")
        assert all(f" {name}-" in domains for name in names)
        assert "fd:state" in vmm.ok("explain", "lv-c1")  # never exec:
        said = [
            vmm.ok("exec", name, "sh", "-c", "hostname; head -c16 /dev/urandom | od -tx1") for name in names
        ]
        assert said[0] != said[1]
        assert [one.split("\n")[0] for one in said] == [*names]
        vmm.ok("exec", "lv-c1", "sh", "-c", "echo mine >/mark; echo mine >/dev/shm/mark; sync")
        assert "No such" in vmm.run("exec", "lv-c2", "cat", "/mark", "/dev/shm/mark").stderr
    finally:
        vmm.run("rm", "-f", *names)
    assert not any(f" {name}-" in vmm.virsh("list", "--all") for name in names)


def test_a_named_template_through_libvirt(vmm: Libvirt) -> None:
    try:
        vmm.ok(
            "template", "create", "lv-t", "--driver", "libvirt", "--network", "none", "--accel", "tcg", "tiny"
        )
        assert vmm.ok("run", "--vm", "--rm", "--from", "lv-t", "echo", "hi") == "hi\n"
    finally:
        vmm.run("template", "rm", "lv-t")


def test_clones_of_a_booted_debian_through_libvirt_are_machines_of_their_own(vmm: Libvirt) -> None:
    """One frozen memory for all; name, machine-id, random bytes and the served host key are their own."""
    need("mmdebstrap", "sshd")
    image("debian")
    names = ("lv-d1", "lv-d2")
    look = "hostname; cat /etc/machine-id; cut -d' ' -f2 /etc/ssh/ssh_host_ed25519_key.pub; "
    look += "od -An -N8 -tx1 /dev/urandom"
    make = ("template", "create", "lv-deb", "--driver", "libvirt", "--accel", "tcg")
    try:
        vmm.ok(*make, "debian", "/sbin/init", timeout_s=300)
        told = []
        for name in names:
            line = (
                "run",
                "--vm",
                "--driver",
                "libvirt",
                "-d",
                "--name",
                name,
                "-p",
                "22",
                "--from",
                "lv-deb",
            )
            vmm.ok(*line, timeout_s=120)
            told.append(vmm.ok("exec", name, "sh", "-c", look).splitlines())
            port = vmm.ok("port", name, "22").rpartition(":")[2].strip()
            scan = ["ssh-keyscan", "-T", "30", "-t", "ed25519", "-p", port, "127.0.0.1"]
            served = subprocess.run(scan, capture_output=True, text=True, timeout=60, check=False).stdout
            assert told[-1][2] in served
        assert [one[0] for one in told] == [*names]
        assert all(len({one[position] for one in told}) == 2 for position in range(4))
        domains = vmm.virsh("list")
        assert all(f" {name}-" in domains for name in names)
        assert "fd:state" in vmm.ok("explain", names[0])  # never exec:
        vmm.ok("exec", names[0], "sh", "-c", "echo mine >/mark; echo mine >/run/mark; sync")
        assert "No such" in vmm.run("exec", names[1], "cat", "/mark", "/run/mark").stderr
        (domain,) = [word for word in domains.split() if word.startswith(f"{names[1]}-")]
        vmm.virsh("shutdown", domain)
        vmm.ok("wait", names[1], timeout_s=60)
    finally:
        vmm.run("rm", "-f", *names)
        vmm.run("template", "rm", "lv-deb")
