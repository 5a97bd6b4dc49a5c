"""Giving the disk space that a guest has freed back to the host."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from host import commands
from host.errors import Unsupported

if TYPE_CHECKING:
    from vmm.machine import Machine

_CHECK_S = 600


def allocated_bytes(path: Path) -> int:
    """What a file occupies on the host."""
    return path.stat().st_blocks * 512


def compact(machine: Machine) -> tuple[int, int]:
    """Trim a running guest's file systems, or rewrite a stopped machine's own disks without what is free.

    A disk that holds snapshots is not rewritten, for qemu-img would leave them out: only clusters that nobody
    uses (a kill, or a full disk of the host, leaves some) are given back to it. Returns the allocated bytes
    before and after. Raises Unsupported where the guest has no fstrim.
    """
    own = [Path(disk.path) for disk in machine.spec.disks if not disk.read_only]
    before = sum(allocated_bytes(path) for path in own)
    if machine.pid() is not None:
        _trim(machine)
    else:
        for disk in machine.spec.disks:
            if not disk.read_only and disk.format == "qcow2":
                _compact_stopped(Path(disk.path))
    return before, sum(allocated_bytes(path) for path in own)


def _trim(machine: Machine) -> None:
    from vmm import inside

    status, _ = inside.run(machine, ("fstrim", "-a"))
    if status:
        status, _ = inside.run(machine, ("fstrim", "/"))
    if status:
        hint = f"vmm stop {machine.folder.name}, then compact it"
        raise Unsupported(
            "cannot trim the disks of", machine.folder.name, "its image has no working fstrim", hint
        )


def _compact_stopped(disk: Path) -> None:
    told = _told(disk)
    if told.get("snapshots"):
        words = ("qemu-img", "check", "-q", "-r", "leaks", str(disk))
        commands.run(words, "cannot check the disk", timeout_s=_CHECK_S)
    else:
        _rewrite(disk, str(told.get("full-backing-filename", "")))


def _rewrite(disk: Path, backing: str) -> None:
    """qemu-img leaves out clusters of zeroes, and keeps the backing file; the old disk stays until the new
    is whole."""
    with tempfile.TemporaryDirectory(prefix=".compact-", dir=disk.parent) as folder:
        made = Path(folder, disk.name)
        behind = ("-B", backing, "-F", "qcow2") if backing else ()
        commands.run(
            ("qemu-img", "convert", "-O", "qcow2", *behind, str(disk), str(made)), "cannot compact the disk"
        )
        os.chmod(made, disk.stat().st_mode & 0o777)
        os.chown(made, disk.stat().st_uid, disk.stat().st_gid)
        os.replace(made, disk)


def _told(disk: Path) -> dict[str, Any]:
    import json

    words = ("qemu-img", "info", "--output=json", str(disk))
    found: dict[str, Any] = json.loads(commands.run(words, "cannot read the disk"))
    return found
