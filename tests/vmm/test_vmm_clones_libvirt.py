"""Clones of a template through libvirt: seen by virsh, not alike, and of frozen memory that they share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from capabilities import need
from machines import shared_home
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


def test_a_named_template_through_libvirt_(vmm: Libvirt) -> None:
    try:
        vmm.ok(
            "template", "create", "lv-t", "--driver", "libvirt", "--network", "none", "--accel", "tcg", "tiny"
        )
        assert vmm.ok("run", "--vm", "--rm", "--from", "lv-t", "echo", "hi") == "hi\n"
    finally:
        vmm.run("template", "rm", "lv-t")
