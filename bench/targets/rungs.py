"""The boot ladder, a target a rung: the same image and marker, by ever fewer steps."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from bench.core.target import MARKER, Cell, Held, Parts, Unavailable
from bench.targets import command, rootfs
from bench.targets.ours import logged, said_inside
from bench.targets.vm import Machine
from bench.targets.vm_clone import Clone
from bench.targets.vm_pool import Pooled
from bench.targets.whole import vmm_argv
from host import commands
from host.edges import Edges
from host.errors import NotFound, Unsupported

if TYPE_CHECKING:
    from instances.requests import RunRequest

QBOOT = "/usr/share/qemu/qboot.rom"
TOOLS = ("syslinux", "sgdisk", "mcopy", "mkfs.vfat")
# What a disk of its own says on the serial line at an edge.
SERIAL = (("t4", "Linux version"), ("t6", "Run /init as init process"), ("t8", MARKER))
MAKE_S = 300.0
POLL_S = 0.005


class Rung(Machine):
    """`--boot RUNG`; `append` are more words for the kernel."""

    rung = ""
    append = ""

    def boot(self, cell: Cell) -> str | None:
        """This rung."""
        return self.rung

    def request(self, cell: Cell) -> RunRequest:
        """With the rung's own words."""
        return super().request(cell)._replace(append=self.append or None)


class Uefi(Rung):
    """OVMF, to which QEMU hands the kernel."""

    name, rung = "rung-uefi", "uefi"


class Direct(Rung):
    """SeaBIOS, to which QEMU hands the kernel; a quiet kernel."""

    name, rung = "rung-direct", "direct"


class DirectLoud(Rung):
    """The same, with all that the kernel says on the serial console."""

    name, rung, append = "rung-direct-loud", "direct", "ignore_loglevel"


class Pvh(Rung):
    """qboot, which enters an uncompressed kernel."""

    name, rung = "rung-pvh-qboot", "pvh"

    def why_unavailable(self) -> Unavailable | None:
        """qboot comes with QEMU's own files."""
        if not os.path.exists(QBOOT):
            return Unavailable(f"{QBOOT} is not there", "apt-get install qemu-system-data")
        return super().why_unavailable()


class Microvm(Rung):
    """No PCI, no legacy devices; the same short firmware."""

    name, rung = "rung-microvm", "microvm"


class OwnDisk(Rung):
    """The whole way: firmware, a loader on the disk (syslinux or systemd-boot), kernel, initramfs.

    The disk's initramfs runs the image's command, the marker, on the serial line, without a helper of ours.
    """

    def why_unavailable(self) -> Unavailable | None:
        """The tools that make a disk bootable, and QEMU."""
        gone = [name for name in TOOLS if shutil.which(name) is None]
        return (
            Unavailable(f"not installed: {', '.join(gone)}", "make setup")
            if gone
            else super().why_unavailable()
        )

    def prepare(self, cell: Cell) -> None:
        """Have the image as a bootable disk in the store."""
        from instances import provision

        rootfs.sweep()
        provision.image(cell.image)
        try:
            provision.store().resolve(_disk_name(cell.image))
        except NotFound:
            _make(cell.image)
        super().prepare(replace(cell, image=_disk_name(cell.image)))

    def request(self, cell: Cell) -> RunRequest:
        """Without a command: the disk has its own."""
        return super().request(cell)._replace(command=())

    def run_once(self, cell: Cell) -> Parts:
        """Request to the marker on the serial line; on the way the kernel's first word, and its init."""
        edges = Edges()
        request = self.request(replace(cell, image=_disk_name(cell.image)))
        with self._detached(request._replace(detach=True, rm=False), edges) as instance:
            for edge, words in SERIAL:
                command.await_text(lambda: logged(instance), words, cell.deadline_s, POLL_S)
                edges.mark(edge)
        edges.mark("t9")
        return Parts(edges_ns=edges.since_ns(), accelerator=self._accelerator)

    @contextmanager
    def hold(self, cell: Cell) -> Iterator[Held]:
        """Only its start is measured."""
        raise Unsupported("cannot hold a machine without a helper", cell.target, "starts only")
        yield


class BiosDisk(OwnDisk):
    """SeaBIOS and syslinux."""

    name, rung = "rung-bios-disk", "bios"


class UefiDisk(OwnDisk):
    """OVMF and systemd-boot."""

    name, rung = "rung-uefi-disk", "uefi"


class Restore(Rung):
    """A stopped machine goes on from a snapshot with memory; the marker comes by `exec`."""

    name, rung = "rung-restore", "microvm"

    def run_once(self, cell: Cell) -> Parts:
        """`snapshot restore` to the marker; the machine and its snapshot are made before the clock starts."""
        from bench.targets.moving import TAG
        from instances import runs, snapshots

        request = self.request(replace(cell, command=command.resting(cell)))
        with self._detached(request._replace(detach=True, rm=False), Edges()) as instance:
            command.await_text(lambda: logged(instance), MARKER, cell.deadline_s, POLL_S)
            snapshots.keep(instance, TAG, memory=True)
            runs.stop(instance, 0.0)
            edges = Edges()
            edges.mark("t0")
            way = snapshots.restore(instance, TAG)
            edges.mark("t3")
            said = said_inside(instance, cell.command)
            edges.mark("t8")
        edges.mark("t9")
        if MARKER not in said:
            return Parts("failed", error=f"the marker never came; it said {said[:80]!r}")
        return Parts(edges_ns=edges.since_ns(), accelerator=self._accelerator, way=way)


class Cloned(Clone):
    """What `vmm run --vm` does by itself: a clone of a template's memory."""

    name = "rung-clone"


class NoInitramfs(Rung):
    """A row that says why there is none."""

    name = "rung-no-initramfs"

    def why_unavailable(self) -> Unavailable | None:
        """modules.builtin of Debian's cloud kernel 6.1 names ext4 and nvme, and nothing of virtio."""
        return Unavailable(
            "Debian's cloud kernel has virtio as modules: without an initramfs to load them it finds neither "
            "its disk nor the guest helper's port, and the helper itself comes in the initramfs"
        )


class Pool(Pooled):
    """A clone that waited, paused, goes on."""

    name = "rung-pool"


def _disk_name(image: str) -> str:
    return f"vmm-bench-own-disk-{image.replace(':', '-')}"


def _make(image: str) -> None:
    """Build the image with the marker as its command, write it as a bootable disk, and import that."""
    name = _disk_name(image)
    with rootfs.scratch_folder() as folder:
        # a disk whose image has /sbin/init runs that, and not the image's command
        lines = f'FROM {image}\nRUN rm -f /sbin/init\nCMD ["sh", "-c", "echo {MARKER}; sleep 86400"]\n'
        (folder / "Dockerfile").write_text(lines)
        disk = folder / "disk.qcow2"
        _vmm("build", "--quiet", "-t", f"{name}-files", str(folder))
        _vmm("convert", "--bootable", "--format", "qcow2", "-o", str(disk), f"{name}-files")
        _vmm("import", "--quiet", str(disk), name)


def _vmm(*words: str) -> None:
    commands.run([*vmm_argv(), "image", *words], f"cannot {words[0]} a bootable disk", timeout_s=MAKE_S)
