"""What the caches hold already: the way of every start, which loads nothing that unpacks, packs or makes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from images.store import Image, Store


class GuestKernel(NamedTuple):
    """A kernel on disk: the compressed image, the ELF inside it (PVH), and its modules where it has some.

    An arm64 kernel has one form only, the Image, which stands for both.
    """

    version: str
    bzimage: Path
    vmlinux: Path
    modules: Path | None


def kernel(home: Path, flavour: str, machine: str = "") -> GuestKernel | None:
    """The kernel of Debian's package `cloud` or `generic`, for an architecture (uname -m)."""
    if "/" in flavour:
        return None
    folder = home / "cache" / "kernels" / kernel_name(flavour, machine)
    return kernel_in(folder.resolve()) if (folder / "vmlinux").exists() else None


def kernel_name(flavour: str, machine: str = "") -> str:
    """The name of a kernel in the cache: the flavour, and the architecture where it is not the host's."""
    return flavour if machine in ("", os.uname().machine) else f"{flavour}-{machine}"


def kernel_in(folder: Path) -> GuestKernel:
    """The kernel that was made in a folder."""
    version = (folder / "version").read_text().strip()
    modules = folder / "modules"
    return GuestKernel(version, folder / "bzimage", folder / "vmlinux", modules if modules.is_dir() else None)


def initrd_path(home: Path, kernel: GuestKernel, helper: Path, modules: Sequence[str]) -> Path:
    """Where the initramfs of those parts lies, or would lie."""
    from images.blobs import sha256

    # By identity of the files, not their bytes: this lies on the way of every start.
    told = helper.stat()
    where = str(kernel.modules and kernel.modules.resolve())
    words = [kernel.version, where, str(helper), str(told.st_mtime_ns), str(told.st_size), *modules]
    key = sha256("\0".join(words).encode()).removeprefix("sha256:")[:24]
    return home / "cache" / "initrds" / f"{key}.cpio"


def base_path(store: Store, image: Image, disk_format: str = "qcow2") -> Path:
    """Where the disk of an image lies, or would lie."""
    return store.root / "disks" / f"{image.digest.removeprefix('sha256:')[:32]}.{disk_format}"


def copy_overlay(base: Path, path: Path) -> bool:
    """Make a thin qcow2 over a base by copying an empty one; whether there was one, made for that base."""
    base = base.resolve()
    try:
        made = empty_path(base).read_bytes()
    except FileNotFoundError:
        return False
    if str(base).encode() not in made:  # its home was moved since
        return False
    path.write_bytes(made)
    return True


def empty_path(base: Path) -> Path:
    """Where the empty overlay of a base is kept: copying it spares a start two calls of qemu-img."""
    return base.with_name(f".{base.name}.empty")
