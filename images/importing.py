"""Make an image of what others give away: a root file system in a tar, or a disk, here or at an address."""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from host import records
from host.errors import BadData, NotFound, Usage, from_os_error
from host.sizes import format_bytes
from images import config as configs
from images import disks, fetch, iso, ova, pack, reference, rootfs
from images.compression import decompressed
from images.store import DISK_ISO, DISK_QCOW2, KERNEL, RAMDISK, Image, Store, now_unix_s, rfc3339

Say = Callable[[str], None]
_ALGORITHMS = {32: "md5", 40: "sha1", 64: "sha256", 128: "sha512"}
_TRUSTED = ("sha256", "sha512")


@dataclass(frozen=True, slots=True)
class Wish:
    """What to import and as what: `checksum` is `sha256:HEX`, `sha512:HEX`, or the address of a list.

    A disk that does not boot by itself comes with a kernel, a ramdisk, and words for the kernel (`append`).
    `architecture` is OCI's word (amd64, arm64), this host's where nothing is said.
    """

    source: str
    name: str
    changes: tuple[str, ...] = ()
    message: str = ""
    checksum: str = ""
    raw: bool = False
    kernel: Path | None = None
    ramdisk: Path | None = None
    append: str = ""
    architecture: str = ""


def run(store: Store, wish: Wish, say: Say, spooled: Path | None = None) -> Image:
    """Import it; nothing is kept of what is cut, of another checksum, or no disk and no tar.

    A disk's format is told by its content, never by its name, and raw only where the wish says so. A disk
    that names other files is refused.
    """
    reference.parse(wish.name)
    if spooled is not None:
        return _checked(store, wish, say, spooled)
    if re.match(r"https?://", wish.source):
        return _downloaded(store, wish, say)
    path = Path(wish.source)
    if not path.is_file():
        raise NotFound("no file", wish.source)
    return _checked(store, wish, say, path)


def _downloaded(store: Store, wish: Wish, say: Say) -> Image:
    """Download beside the store: what was cut stays there, so that the next try goes on."""
    folder = store.root / "downloads"
    folder.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256(f"{wish.source} {wish.checksum}".encode()).hexdigest()[:32]
    path = folder / key
    with records.lock(path.with_suffix(".lock"), wait_s=3600):  # two commands would write into one file
        if path.exists():
            say(f"going on after {format_bytes(path.stat().st_size)}")
        try:
            fetch.fetch(wish.source, path, fetch.told(say))
            image = _checked(store, wish, say, path)
        except (BadData, Usage):
            fetch.forget(path)  # all of it came, and it is the wrong thing
            raise
        except OSError as error:  # most likely the disk is full: give back what this took
            fetch.forget(path)
            raise from_os_error("cannot import", error, wish.source) from error
        else:
            fetch.forget(path)
            return image
        finally:
            if not path.exists():
                path.with_suffix(".lock").unlink(missing_ok=True)


def _checked(store: Store, wish: Wish, say: Say, path: Path) -> Image:
    if wish.checksum:
        say("verifying the checksum")
        verify(path, wish.checksum, wish.source)
    if not wish.raw and (ova.is_ova(path) or ova.is_ovf(path)):
        return _appliance(store, wish, say, path)
    if not wish.raw and is_tar(path):
        say("storing the root file system")
        with path.open("rb") as stream:
            return rootfs.import_tar(store, stream, wish.name, wish.changes, wish.message)
    say("storing the disk")
    return import_disk(store, path, wish)


def _appliance(store: Store, wish: Wish, say: Say, path: Path) -> Image:
    """An OVA or OVF: its disk, with what it asks of a machine as labels."""
    say("reading the appliance")
    with store.using(), store.layers.making() as half:
        found = ova.unpack(path, half)
        say("storing the disk")
        return import_disk(store, found.disk, replace(wish, changes=(*found.labels, *wish.changes)))


def is_tar(path: Path) -> bool:
    """Whether a file is a tar, plain or packed by gzip: by its content."""
    try:
        with path.open("rb") as file:
            head = decompressed(file).read(512)
    except (OSError, EOFError):
        return False
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True


def verify(path: Path, checksum: str, source: str) -> None:
    """BadData unless the file has the checksum; a list (SHA256SUMS, SHA512SUMS) is fetched and searched."""
    algorithm, wanted = _wanted(checksum, source)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, algorithm).hexdigest()
    if found != wanted:
        why = f"its {algorithm} is {found}, not {wanted}"
        raise BadData("refused the import", source, why, "the file is damaged or not the one that was meant")


def _wanted(checksum: str, source: str) -> tuple[str, str]:
    algorithm, colon, digits = checksum.partition(":")
    if not re.match(r"https?://", checksum):
        if colon and algorithm in _TRUSTED and re.fullmatch("[0-9a-fA-F]+", digits):
            return algorithm, digits.lower()
        raise Usage("cannot use the checksum", checksum, hint="sha256:HEX, sha512:HEX, or the URL of a list")
    name = PurePosixPath(urlsplit(source).path).name
    for line in fetch.text(checksum).splitlines():
        words = line.split()
        if len(words) == 2 and words[1].lstrip("*./") == name and _ALGORITHMS.get(len(words[0])) in _TRUSTED:
            return _ALGORITHMS[len(words[0])], words[0].lower()
    raise BadData("refused the import", source, f"the list {checksum} has no sha256 or sha512 of {name!r}")


def import_disk(store: Store, path: Path, wish: Wish) -> Image:
    """Store a disk as an image that machines start from: an ISO as it is, any other as a qcow2."""
    if not wish.raw and iso.is_iso(path):
        return _import_iso(store, path, wish)
    disk_format = "raw" if wish.raw else disks.trusted_format(path)
    disks.check_format(disk_format)
    changes = [f'LABEL vmm.append="{wish.append}"'] if wish.append else []
    with store.using(), store.layers.making() as half:
        made = disks.convert(path, half / "disk.qcow2", "qcow2", source_format=disk_format)
        parts = [_part(store, DISK_QCOW2, made)]
        parts += [
            _part(store, kind, file)
            for kind, file in ((KERNEL, wish.kernel), (RAMDISK, wish.ramdisk))
            if file
        ]
        return _add(store, wish, parts, changes)


def _import_iso(store: Store, path: Path, wish: Wish) -> Image:
    """A disc boots by its own loader; a label keeps by which firmware it can."""
    if wish.kernel:
        raise Usage("cannot import", wish.source, "it is an ISO, which boots itself", "leave --kernel out")
    found = iso.boots(path)
    if not found:
        raise BadData("cannot import", wish.source, "its boot record is for neither BIOS nor UEFI")
    with store.using():
        return _add(store, wish, [_part(store, DISK_ISO, path)], [f'LABEL vmm.boots="{" ".join(found)}"'])


def _add(store: Store, wish: Wish, parts: list[dict[str, object]], changes: list[str]) -> Image:
    stage = rootfs.changed(configs.ImageConfig(), [*wish.changes, *changes])
    created = rfc3339(now_unix_s())
    document = {
        "architecture": wish.architecture or configs.host_architecture(),
        "os": "linux",
        "created": created,
        "config": configs.to_oci(stage.config),
        "rootfs": {"type": "layers", "diff_ids": []},
        "history": [
            {"created": created, "created_by": f"vmm image import {wish.source}", "comment": wish.message}
        ],
    }
    return store.add(document, parts, wish.name)


def _part(store: Store, media_type: str, path: Path) -> dict[str, object]:
    digest, size = pack.store_file(store.blobs, path)
    return {"mediaType": media_type, "digest": digest, "size": size}
