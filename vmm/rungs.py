"""The boot ladder: which kernel file and which modules a boot mode wants."""

from __future__ import annotations

from vmm.spec import MachineSpec


def kernel_file(boot: str) -> str:
    """Which file of a guest kernel a boot mode starts: `bzimage`, or `vmlinux`, which carries a PVH note."""
    return "vmlinux" if boot in ("pvh", "microvm") else "bzimage"


def modules(spec: MachineSpec) -> tuple[str, ...]:
    """The kernel modules that the initramfs loads, in order: an image of ours carries none itself.

    The transport comes first, since the drivers behind it probe when they are loaded.
    """
    names = ["virtio_mmio" if spec.boot == "microvm" else "virtio_pci"]
    # Debian's generic kernel has ext4 as a module, the cloud kernel has it built in: initrds leaves that out.
    names += ["virtio_blk", "virtio_console", "virtio_rng", spec.root_type]
    if spec.nics or not spec.command_mode:
        names.append("virtio_net")
    kinds = {share.kind for share in spec.shares}
    names += [kind for kind in ("9p", "virtiofs") if kind in kinds]
    if spec.seed:
        names.append("isofs")
    if not spec.command_mode and spec.arch == "x86_64":  # `virt` without UEFI has its button on a GPIO
        names += ["button", "evdev"]  # systemd-logind hears the power button from an input device
    if spec.balloon:
        names.append("virtio_balloon")
    return tuple(names)
