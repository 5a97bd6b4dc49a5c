"""Adapters: everything that the bench can start. Adding one is one file and one line here."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module

from bench.core.target import Target

# name -> module:class, in the order of lists and tables
TARGETS = {
    "process": "bench.targets.process:Process",
    "ct": "bench.targets.ct:Container",
    "ct-rootless": "bench.targets.ct_rootless:Rootless",
    "vm": "bench.targets.vm:Machine",
    "vm-libvirt": "bench.targets.vm_libvirt:LibvirtMachine",
    "vm-clone": "bench.targets.vm_clone:Clone",
    "vm-from": "bench.targets.vm_from:Clone",
    "vm-kept": "bench.targets.vm_from:Kept",
    "vm-pool": "bench.targets.vm_pool:Pooled",
    "qemu": "bench.targets.bare:Qemu",
    "virsh": "bench.targets.bare:Virsh",
    "vmm-run-ct": "bench.targets.whole:RunContainer",
    "vmm-run-vm": "bench.targets.whole:RunMachine",
    "vmm-run-vm-pool": "bench.targets.vm_pool:RunPooled",
    "vmm-run-vm-cold": "bench.targets.whole:RunMachineCold",
    "bubblewrap": "bench.targets.bubblewrap:Bubblewrap",
    "runc": "bench.targets.runc:Runc",
    "docker": "bench.targets.docker:Docker",
    "podman": "bench.targets.podman:Podman",
    "crun": "bench.targets.crun:Crun",
    "lxc": "bench.targets.lxc:Lxc",
    "systemd-nspawn": "bench.targets.nspawn:Nspawn",
    "unshare": "bench.targets.unshare:Unshare",
    "rung-bios-disk": "bench.targets.rungs:BiosDisk",
    "rung-uefi-disk": "bench.targets.rungs:UefiDisk",
    "rung-uefi": "bench.targets.rungs:Uefi",
    "rung-direct-loud": "bench.targets.rungs:DirectLoud",
    "rung-direct": "bench.targets.rungs:Direct",
    "rung-no-initramfs": "bench.targets.rungs:NoInitramfs",
    "rung-pvh-qboot": "bench.targets.rungs:Pvh",
    "rung-microvm": "bench.targets.rungs:Microvm",
    "rung-restore": "bench.targets.rungs:Restore",
    "rung-clone": "bench.targets.rungs:Cloned",
    "rung-pool": "bench.targets.rungs:Pool",
    "exec": "bench.targets.exec:Exec",
    "fake": "bench.targets.fake:Fake",
    "fake-b": "bench.targets.fake:FakeB",
}
HIDDEN = frozenset({"exec", "fake", "fake-b", *(name for name in TARGETS if name.startswith("rung-"))})


def load(names: Iterable[str]) -> dict[str, Target]:
    """The targets of those names; unknown names are left out, the campaign tells them as skipped."""
    return {name: _made(TARGETS[name]) for name in names if name in TARGETS}


def _made(where: str) -> Target:
    module, _, kind = where.partition(":")
    target: Target = getattr(import_module(module), kind)()
    return target
