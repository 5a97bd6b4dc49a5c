"""Guest kernels: Debian's own packages, unpacked into a cache without installing anything."""

from __future__ import annotations

import hashlib
import lzma
import os
import re
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

from host import commands, records
from host.errors import BadData, CommandFailed, HostUnfit, NotFound, Usage
from images import packages
from images.at_hand import GuestKernel, kernel_in, kernel_name

FLAVOURS = {"cloud": "linux-image-cloud-{arch}", "generic": "linux-image-{arch}"}


def guest_kernel(
    home: Path, flavour: str | Path = "cloud", update: bool = False, machine: str = ""
) -> GuestKernel:
    """The kernel of Debian's package `cloud` or `generic`, downloaded once, or of a file.

    `update` asks apt for a newer one; `machine` (uname -m) is another architecture than the host's.
    Raises Usage for another word, NotFound for a missing file, HostUnfit
    where apt cannot give the package, BadData for a file that is no kernel.
    """
    if isinstance(flavour, Path):
        return _of_file(home, flavour)
    if flavour not in FLAVOURS:
        raise Usage("unknown guest kernel", repr(flavour), f"known are {', '.join(FLAVOURS)}, or a file")
    folder = home / "cache" / "kernels"
    current = folder / kernel_name(flavour, machine)
    if update or not (current / "vmlinux").exists():
        with records.lock(folder / f".{current.name}.lock", wait_s=900):
            if update or not (current / "vmlinux").exists():
                _install(folder, flavour, current, machine, packages.apt(home, machine, update))
    return kernel_in(current.resolve())


def _install(folder: Path, flavour: str, current: Path, machine: str, apt: tuple[str, ...]) -> None:
    package = _package(FLAVOURS[flavour].format(arch=packages.debian_architecture(machine)), apt)
    version = package.removeprefix("linux-image-")
    target = folder / (version if version.endswith(f"-{flavour}") else f"{version}-{flavour}")
    _sweep(folder)
    if not (target / "vmlinux").exists():
        with tempfile.TemporaryDirectory(prefix=".half-", dir=folder) as half:
            _move_into_place(_unpacked(package, Path(half), apt), target)
    link = folder / f".{current.name}.{os.getpid()}"
    link.unlink(missing_ok=True)
    link.symlink_to(target.name)
    link.rename(current)


def _sweep(folder: Path) -> None:
    # We hold the flavour's lock; what a killed command left half made is older than any download takes.
    import time

    for half in folder.glob(".half-*"):
        if half.stat().st_mtime < time.time() - 3600:
            shutil.rmtree(half, ignore_errors=True)


def _move_into_place(made: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    made.rename(target)


_NO_PACKAGE = "apt-get update, and a source for Debian's kernels in /etc/apt; or --kernel FILE"


def _package(name: str, apt: tuple[str, ...] = ()) -> str:
    """The package with the kernel itself, which the meta package `name` depends on."""
    what = "cannot find the guest kernel's package"
    try:
        told = commands.run(["apt-cache", *apt, "depends", "--important", name], what, timeout_s=60).decode()
    except CommandFailed as error:
        raise HostUnfit(what, name, error.log, _NO_PACKAGE) from None
    found = re.search(r"Depends: (linux-image-\d\S*)", told)
    if not found:
        raise HostUnfit(what, name, "apt knows no linux-image that it depends on", _NO_PACKAGE)
    return found[1].removesuffix("-unsigned")


def _unpacked(package: str, half: Path, apt: tuple[str, ...] = ()) -> Path:
    """Download and unpack a kernel package below `half`; the finished folder."""
    return _arrange(packages.unpacked(package, half, apt), half / "made")


def _arrange(tree: Path, made: Path) -> Path:
    image = next((tree / "boot").glob("vmlinu?-*"), None)
    modules = next((tree / "lib" / "modules").glob("*"), None)
    if image is None or modules is None:
        raise BadData("cannot use the guest kernel's package", "", "it holds no kernel or no modules")
    made.mkdir()
    modules.rename(made / "modules")
    image.rename(made / "bzimage")
    (made / "version").write_text(modules.name + "\n")
    _write_vmlinux(made / "bzimage", made / "vmlinux")
    return made


def _of_file(home: Path, path: Path) -> GuestKernel:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise NotFound(
            "cannot read the kernel", str(path), error.strerror or "", "--kernel takes a bzImage or vmlinux"
        ) from None
    digest = hashlib.sha256(data).hexdigest()[:16]
    folder = home / "cache" / "kernels" / f"file-{digest}"
    if not (folder / "vmlinux").exists():
        with records.lock(folder.parent / f".{folder.name}.lock"):
            if not (folder / "vmlinux").exists():
                with tempfile.TemporaryDirectory(prefix=".half-", dir=folder.parent) as half:
                    _move_into_place(_made_of(data, path, Path(half, "made")), folder)
    return kernel_in(folder)


def _made_of(data: bytes, path: Path, made: Path) -> Path:
    made.mkdir()
    (made / "bzimage").write_bytes(data)
    beside = path.resolve().parent / "modules"
    (made / "version").write_text(_version(data) + "\n")
    if beside.is_dir():
        (made / "modules").symlink_to(beside)
    _write_vmlinux(made / "bzimage", made / "vmlinux")
    return made


def _version(data: bytes) -> str:
    # Documentation/arch/x86/boot.rst: kernel_version points at a string, 0x200 below its offset
    if data[0x202:0x206] == b"HdrS":
        at = struct.unpack_from("<H", data, 0x20E)[0] + 0x200
        return data[at : data.index(0, at)].split(b" ")[0].decode(errors="replace")
    found = re.search(rb"Linux version (\S+)", data)
    return found[1].decode(errors="replace") if found else "unknown"


def _write_vmlinux(bzimage: Path, vmlinux: Path) -> None:
    data = bzimage.read_bytes()
    if data[:4] == b"\x7fELF" or data[0x38:0x3C] == b"ARMd":
        vmlinux.symlink_to(bzimage.name)  # an ELF already, or arm64's Image, which QEMU loads as it is
        return
    vmlinux.write_bytes(extract_vmlinux(data, str(bzimage)))


def extract_vmlinux(data: bytes, name: str = "") -> bytes:
    """The ELF inside a bzImage, which QEMU starts by its PVH note, skipping firmware and decompression.

    Source: Documentation/arch/x86/boot.rst, payload_offset and payload_length (boot protocol 2.08).
    Raises BadData when it is no bzImage or the compression is unknown.
    """
    if data[0x202:0x206] != b"HdrS" or struct.unpack_from("<H", data, 0x206)[0] < 0x208:
        raise BadData(
            "cannot use the kernel", name, "not an x86 bzImage", "--kernel takes a bzImage or a vmlinux"
        )
    sectors = data[0x1F1] or 4
    offset, length = struct.unpack_from("<II", data, 0x248)
    begin = (sectors + 1) * 512 + offset
    # the last four bytes are the uncompressed size, which the decompressors take for rubbish
    payload, size = data[begin : begin + length - 4], data[begin + length - 4 : begin + length]
    elf = _decompress(payload, name)
    if elf[:4] != b"\x7fELF" or len(elf) != struct.unpack("<I", size)[0]:
        raise BadData("cannot use the kernel", name, "what it unpacks to is no ELF of the promised size")
    return elf


def _decompress(payload: bytes, name: str) -> bytes:
    for magic, unpack in _COMPRESSIONS:
        if payload.startswith(magic):
            return unpack(payload)
    raise BadData("cannot use the kernel", name, f"unknown compression, it begins with {payload[:6].hex()}")


def _by_program(*argv: str) -> Callable[[bytes], bytes]:
    return lambda payload: commands.run(argv, "cannot unpack the kernel", input=payload, timeout_s=120)


_COMPRESSIONS: tuple[tuple[bytes, Callable[[bytes], bytes]], ...] = (
    (b"\x02\x21\x4c\x18", _by_program("lz4", "-dc")),
    (b"\xfd7zXZ\0", lzma.decompress),
    (b"\x28\xb5\x2f\xfd", _by_program("zstd", "-dc")),
    (b"\x1f\x8b", lambda payload: zlib.decompressobj(31).decompress(payload)),
    (b"\x5d\0\0", lambda payload: lzma.LZMADecompressor(lzma.FORMAT_ALONE).decompress(payload)),
)
