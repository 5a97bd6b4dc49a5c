"""Disks of machines: a base per image, made of its layers without a mount, and a thin qcow2 over it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from host import commands, records
from host.errors import BadData, CommandFailed, Usage
from images import at_hand, iso
from images import layers as unpacked
from images.merged import Found, Merged, Parts
from images.metadata import Rights, copy_file, copy_metadata, rights
from images.store import DISK_ISO, DISK_QCOW2, Image, Store

FORMATS = ("raw", "qcow2", "vmdk", "vdi", "vpc", "vhdx")
# What the file system may grow into without resizing; a sparse file, so it occupies only what the image does.
BASE_BYTES = 8 << 30
_BLOCK_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Disk:
    """What qemu-img tells of a disk: virtual size, bytes on the host, and the chain of files behind it."""

    path: Path
    disk_format: str
    virtual_bytes: int
    allocated_bytes: int
    apparent_bytes: int
    backing: tuple[Path, ...]


def base(store: Store, image: Image, disk_format: str = "qcow2") -> Path:
    """The disk of an image: one ext4 without a partition table, 8 GiB large, sparse on the host.

    Made once a digest and format and then shared, read-only. As an ordinary user, files that the image gives
    to others than root belong to root on the disk, and device nodes are missing: nothing on the host may hold
    them.
    """
    if disk_format not in ("raw", "qcow2"):
        raise Usage(
            "cannot make a base disk", disk_format, "a base is raw or qcow2", "vmm image convert makes others"
        )
    if image.disk:
        return store.blobs.path(image.disk)
    path = at_hand.base_path(store, image, disk_format)
    if path.exists():
        return path
    with store.using(), records.lock(path.with_name(f".{path.name}.lock"), wait_s=900):
        if not path.exists():
            _make_base(store, image, path, disk_format)
    return path


def base_format(image: Image) -> str:
    """The format of an image's base: an ISO lies there as it came."""
    return "raw" if image.cdrom else "qcow2"


def _make_base(store: Store, image: Image, path: Path, disk_format: str) -> None:
    lowers = store.lower_dirs(image)
    with tempfile.TemporaryDirectory(prefix="disk-", dir=store.staging) as half:
        made = Path(half, "disk.raw")
        with tree(store, lowers) as root:
            make_ext4(root, made, BASE_BYTES, image.digest)
        if disk_format != "raw":
            made = convert(made, Path(half, f"disk.{disk_format}"), disk_format, source_format="raw")
        made.chmod(0o444)
        with made.open("rb") as file:
            os.fsync(file.fileno())
        made.rename(path)


def make_ext4(root: Path, path: Path, size_bytes: int, seed: str, offset_bytes: int = 0) -> None:
    """Write an ext4 of `size_bytes` that holds the tree; the same tree and seed give the same file system.

    With an offset it goes into a partition of a disk that is there. Source: mke2fs(8); `-d` copies a
    directory without mounting anything.
    """
    if not offset_bytes:
        with path.open("wb") as file:
            file.truncate(size_bytes)
    uuid = uuid_of(seed)
    # The file is sparse (`nodiscard`), so its tables are zero and need not be written: where mke2fs can be
    # told, the guest's kernel does not write them in its idle time either (150 KiB of every overlay).
    young = _mke2fs_version() >= (1, 47)
    tables = "assume_storage_prezeroed=1" if young else "lazy_itable_init=1"
    place = f"offset={offset_bytes}," if offset_bytes else ""
    extended = f"{place}{tables},lazy_journal_init=1,nodiscard,root_owner=0:0,hash_seed={uuid}"
    # orphan_file: since 1.47 a default, which kernels before 5.15 refuse to mount.
    features = "^metadata_csum_seed,^orphan_file" if young else "^metadata_csum_seed"
    words = f"mke2fs -q -F -t ext4 -L root -U {uuid} -m 0 -b {_BLOCK_BYTES} -I 256 -J size=16 -O {features}"
    argv = [*_as_root(), *words.split(), "-E", extended, "-d", str(root), str(path), f"{size_bytes // 1024}k"]
    with _full_disk_told():
        commands.run(argv, "cannot make the file system", env={**os.environ, **_fixed_time()})


def _as_root() -> list[str]:
    """What an ordinary user's mke2fs runs under: the files that were unpacked as his are root's in there.

    The program's own words are kept where it is missing, or where user namespaces are off.
    """
    become = ["unshare", "--map-root-user"]
    if os.geteuid() == 0 or not all(map(shutil.which, ("unshare", "mke2fs"))):
        return []
    tried = subprocess.run([*become, "true"], capture_output=True, check=False)
    return [] if tried.returncode else become


@contextlib.contextmanager
def _full_disk_told() -> Iterator[None]:
    """A program that met a full disk says so in its words; the hint is ours."""
    try:
        yield
    except CommandFailed as error:
        if "No space left" in error.log:
            error.hint = "free space with `vmm prune`, or point VMM_HOME at a larger file system"
        raise


def _mke2fs_version() -> tuple[int, int]:
    with contextlib.suppress(FileNotFoundError):  # making the file system says so better
        told = subprocess.run(["mke2fs", "-V"], stderr=subprocess.PIPE, text=True, check=False).stderr
        if found := re.match(r"mke2fs (\d+)\.(\d+)", told):
            return int(found[1]), int(found[2])
    return 0, 0


def _fixed_time() -> dict[str, str]:
    told = os.environ.get("SOURCE_DATE_EPOCH", "")
    return {"E2FSPROGS_FAKE_TIME": told} if told.isdigit() else {}


def uuid_of(seed: str) -> str:
    """A UUID that is the same for the same seed."""
    import hashlib
    import uuid

    return str(uuid.UUID(bytes=hashlib.sha256(seed.encode()).digest()[:16], version=4))


@contextlib.contextmanager
def tree(store: Store, lowers: tuple[Path, ...]) -> Iterator[Path]:
    """One directory that holds the merged layers: the layer itself if alone, else links to all files."""
    if len(lowers) == 1:
        yield lowers[0]
        return
    half = store.staging / f"tree-{os.getpid()}-{os.urandom(6).hex()}"
    half.mkdir()
    try:
        flatten(Merged(lowers), half, rights())
        yield half
    finally:
        unpacked.remove_tree(half)


def flatten(merged: Merged, target: Path, may: Rights) -> None:
    """Lay the merged tree out in `target`: directories anew, all else as hard links (one file system)."""
    directories: list[tuple[Parts, Found]] = [((), found)] if (found := merged.lookup(())) else []
    for at, found in merged.walk():
        path = target.joinpath(*at)
        if stat.S_ISDIR(found.status.st_mode):
            path.mkdir()
            directories.append((at, found))
        else:
            _link(found, path, may)
    for at, found in reversed(directories):
        _settle(found, target.joinpath(*at), may)


def _link(found: Found, path: Path, may: Rights) -> None:
    try:
        os.link(found.path, path, follow_symlinks=False)
    except OSError:  # too many links (EMLINK), or another file system
        fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            copy_file(found, path.name, fd, may)
        finally:
            os.close(fd)


def _settle(found: Found, path: Path, may: Rights) -> None:
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        copy_metadata(found, path.name, fd, may)
    finally:
        os.close(fd)


# files of disks


def overlay(base_disk: Path, path: Path, size_bytes: int | None = None) -> Path:
    """Make a qcow2 at `path` that holds only what differs from the base; `size_bytes` may make it larger.

    The guest grows its file system into a larger disk at its next start. Usage when it would be smaller.
    """
    if size_bytes is None:
        return _copy_of_empty(base_disk.resolve(), path)
    told = _info(base_disk)
    if size_bytes < told["virtual-size"]:
        least = told["virtual-size"]
        raise Usage(
            "cannot make the disk", str(size_bytes), f"the image needs {least} bytes", "give a larger --disk"
        )
    _create_overlay(base_disk.resolve(), path, told["format"], size_bytes)
    return path


def blank(path: Path, disk_format: str, size_bytes: int) -> Path:
    """Make an empty disk."""
    check_format(disk_format)
    _qemu_img("create", "-q", "-f", disk_format, str(path), str(size_bytes))
    return path


def _create_overlay(base_disk: Path, path: Path, base_format: str, size_bytes: int | None) -> None:
    # Clusters of 8 KiB: an idle guest's scattered small writes cost an eighth of what the usual 64 KiB would.
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on,cluster_size=8k"]
    argv += ["-b", str(base_disk), "-F", base_format, str(path)]
    commands.run([*argv, str(size_bytes)] if size_bytes else argv, "cannot make the disk", timeout_s=60)


def _copy_of_empty(base_disk: Path, path: Path) -> Path:
    """The empty overlay of a base is made once and copied: two calls of qemu-img less in a start."""
    if not at_hand.copy_overlay(base_disk, path):
        empty = at_hand.empty_path(base_disk)
        half = empty.with_name(f"{empty.name}.{os.getpid()}")
        _create_overlay(base_disk, half, _info(base_disk)["format"], None)
        path.write_bytes(half.read_bytes())
        half.rename(empty)
    return path


def inspect(path: Path) -> Disk:
    """What a disk is: format by content, sizes, and the chain of backing files."""
    chain = json.loads(_qemu_img("info", "--output=json", "--backing-chain", "-U", _plain(path)))
    status, first = path.stat(), chain[0]
    behind = tuple(Path(told["filename"]) for told in chain[1:])
    return Disk(path, first["format"], first["virtual-size"], status.st_blocks * 512, status.st_size, behind)


def convert(source: Path, target: Path, disk_format: str, source_format: str = "") -> Path:
    """Convert a disk; the source's format is told by its content, raw only where `source_format` says so."""
    check_format(disk_format)
    kind = source_format or trusted_format(source)
    _qemu_img("convert", "-f", kind, "-O", disk_format, _plain(source), _plain(target))
    return target


def resize(path: Path, size_bytes: int) -> None:
    """Make a disk larger. Usage when it would shrink: that would cut the file system."""
    told = _info(path)
    if size_bytes < told["virtual-size"]:
        raise Usage(
            "cannot shrink the disk",
            str(path),
            f"it has {told['virtual-size']} bytes, {size_bytes} are asked",
        )
    _qemu_img("resize", "-f", told["format"], str(path), str(size_bytes))


def check_format(disk_format: str) -> None:
    """Usage for a disk format that is not known."""
    if disk_format not in FORMATS:
        raise Usage("cannot use the disk format", disk_format, hint="one of " + ", ".join(FORMATS))


def trusted_format(path: Path) -> str:
    """The format of a disk that somebody else made, by its content; never `raw`, which is no content at all.

    BadData where it names other files (backing, data or extent files): QEMU would open them with our rights
    (CVE-2015-5162 and its kind, QEMU's docs/system/images "security").
    """
    told = _info(path)
    if told["format"] == "raw":
        raise BadData(
            "cannot tell the disk's format", str(path), "its content is of no known format", "say --raw"
        )
    special = (told.get("format-specific") or {}).get("data") or {}
    if told.get("backing-filename") or told.get("full-backing-filename"):
        raise BadData(
            "refused the disk", str(path), f"it is backed by another file, {told['backing-filename']!r}"
        )
    if special.get("data-file"):
        raise BadData(
            "refused the disk", str(path), f"its data lie in another file, {special['data-file']!r}"
        )
    for extent in special.get("extents", []):
        if Path(extent["filename"]).resolve() != path.resolve():
            raise BadData(
                "refused the disk", str(path), f"its data lie in another file, {extent['filename']!r}"
            )
    return str(told["format"])


def check_parts(store: Store, manifest: Mapping[str, Any]) -> None:
    """BadData where an image of another's making brings a disk that is not what it says, or names files."""
    for told in manifest["layers"]:
        path = store.blobs.path(told["digest"])
        if told["mediaType"] == DISK_QCOW2 and trusted_format(path) != "qcow2":
            raise BadData("refused the disk", told["digest"], "it is no qcow2")
        if told["mediaType"] == DISK_ISO:
            iso.boots(path)


def _info(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise BadData("cannot read the disk", str(path), "it is no file")
    told: dict[str, Any] = json.loads(_qemu_img("info", "--output=json", "-U", _plain(path)))
    return told


def _plain(path: Path) -> str:
    """The path as QEMU takes it for one: `nbd:x` or `json:{}` would be a protocol."""
    return str(path.absolute())


def _qemu_img(*words: str) -> bytes:
    with _full_disk_told():
        return commands.run(["qemu-img", *words], "cannot work on the disk", timeout_s=1800)
