"""Appliances of other hypervisors: an OVA (a tar) or an OVF beside its disk: the disk, and what it asks for.

Source: DMTF DSP0243, Open Virtualization Format 2.1: package (clause 5), envelope (7 to 9).
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from xml.etree import ElementTree

from host.errors import BadData, NotFound, Unsupported
from images.blobs import MAX_DOCUMENT_BYTES
from images.compression import decompressed

_DIGEST = re.compile(r"(SHA1|SHA256|SHA512)\((.+)\)\s*=\s*([0-9a-fA-F]+)")
_UNITS = re.compile(r"byte\s*\*\s*2\^(\d+)")
_PROCESSORS, _MEMORY = "3", "4"


@dataclass(frozen=True, slots=True)
class Appliance:
    """What an appliance is: its one disk, and the machine that it was made for; 0 where it does not say."""

    disk: Path
    memory_bytes: int = 0
    cpus: int = 0
    uefi: bool = False

    @property
    def labels(self) -> tuple[str, ...]:
        """The same as lines of a Dockerfile."""
        told = {
            "vmm.memory_bytes": self.memory_bytes,
            "vmm.cpus": self.cpus,
            "vmm.boots": self.uefi and "uefi",
        }
        return tuple(f'LABEL {key}="{value}"' for key, value in told.items() if value)


def is_ova(path: Path) -> bool:
    """Whether a file is a tar that begins with an OVF, as packages do."""
    try:
        with tarfile.open(path, "r:") as archive:
            first = archive.next()
    except (tarfile.TarError, EOFError, ValueError):
        return False
    return first is not None and first.isreg() and first.name.lower().endswith(".ovf")


def is_ovf(path: Path) -> bool:
    """Whether a file is the XML of an OVF envelope."""
    with path.open("rb") as file:
        head = file.read(4096)
    return head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"<") and b"schemas.dmtf.org/ovf" in head


def unpack(path: Path, folder: Path) -> Appliance:
    """Read the appliance and write its disk into `folder`; what its manifest lists is verified.

    BadData where it is broken, Unsupported where it has not exactly one disk.
    """
    if is_ovf(path):
        return _read(_Beside(path), folder)
    try:
        with tarfile.open(path, "r:") as archive:
            return _read(_Package(archive, path), folder)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise BadData("cannot read the appliance", str(path), f"not a sound archive: {error}") from None


class _Package:
    """The files of an OVA, by their names in it."""

    def __init__(self, archive: tarfile.TarFile, path: Path) -> None:
        self._archive, self.on = archive, str(path)
        self.names = [member.name for member in archive if member.isreg()]
        self.envelope = self.names[0]

    def open(self, name: str) -> IO[bytes]:
        file = self._archive.extractfile(name) if name in self.names else None
        if file is None:
            raise NotFound("no file in the appliance", name)
        return file


class _Beside:
    """The files that lie beside an OVF; a name with a directory in it is none."""

    def __init__(self, path: Path) -> None:
        self._folder, self.envelope, self.on = path.parent, path.name, str(path)
        self.names = [found.name for found in path.parent.iterdir() if found.is_file()]

    def open(self, name: str) -> IO[bytes]:
        if name not in self.names:
            raise NotFound("no file beside the OVF", name)
        return (self._folder / name).open("rb")


def _read(package: _Package | _Beside, folder: Path) -> Appliance:
    with package.open(package.envelope) as file:
        data = file.read(MAX_DOCUMENT_BYTES + 1)
    if len(data) > MAX_DOCUMENT_BYTES:
        raise BadData("cannot read the appliance", package.on, "its OVF is larger than 4 MiB")
    try:
        envelope = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise BadData("cannot read the appliance", package.on, f"its OVF is no XML: {error}") from None
    _verify(package)
    name, packed = _disk_file(envelope, package.on)
    disk = folder / "disk"
    with package.open(name) as file, disk.open("wb") as copy:
        shutil.copyfileobj(decompressed(file) if packed else file, copy, 1 << 20)
    return Appliance(disk, *_hardware(envelope), uefi=_uefi(envelope))


def _verify(package: _Package | _Beside) -> None:
    """BadData where a file has another digest than the package's manifest says; without one all is well."""
    listed = package.envelope[: -len(".ovf")] + ".mf"
    if listed not in package.names:
        return
    with package.open(listed) as file:
        lines = file.read(MAX_DOCUMENT_BYTES).decode("utf-8", "replace").splitlines()
    for found in filter(None, map(_DIGEST.match, lines)):
        algorithm, name, wanted = found[1].lower(), found[2], found[3].lower()
        with package.open(name) as file:
            digest = hashlib.file_digest(file, algorithm).hexdigest()  # type: ignore[arg-type]
        if digest != wanted:
            raise BadData(
                "refused the appliance", package.on, f"the {algorithm} of {name} is {digest}, not {wanted}"
            )


def _disk_file(envelope: ElementTree.Element, on: str) -> tuple[str, bool]:
    """The name of the one disk's file, and whether it is packed by gzip."""
    files = {_told(one, "id"): one for one in _all(envelope, "File")}
    wanted = [files.get(_told(one, "fileRef")) for one in _all(envelope, "Disk") if _told(one, "fileRef")]
    if len(wanted) != 1:
        hint = "unpack it (tar -xf), then vmm image import each disk"
        raise Unsupported(
            "cannot import the appliance", on, f"it has {len(wanted)} disks, one is taken", hint
        )
    if wanted[0] is None or not _told(wanted[0], "href"):
        raise BadData("cannot read the appliance", on, "its disk names no file of it")
    return _told(wanted[0], "href"), _told(wanted[0], "compression") == "gzip"


def _hardware(envelope: ElementTree.Element) -> tuple[int, int]:
    """Memory in bytes and processors, as the virtual hardware asks for them (CIM ResourceType 4 and 3)."""
    told = {_text(item, "ResourceType"): item for item in _all(envelope, "Item")}
    memory, cpus = (_number(told.get(kind)) for kind in (_MEMORY, _PROCESSORS))
    units = _text(told.get(_MEMORY), "AllocationUnits")
    power = _UNITS.fullmatch(units.strip())
    shift = int(power[1]) if power else {"KiloBytes": 10, "GigaBytes": 30}.get(units, 20)
    return (memory << shift if shift <= 40 else 0), cpus


def _uefi(envelope: ElementTree.Element) -> bool:
    """VMware's word for it: the standard has none."""
    return any(
        _told(one, "key") == "firmware" and _told(one, "value") == "efi" for one in _all(envelope, "Config")
    )


def _number(item: ElementTree.Element | None) -> int:
    text = _text(item, "VirtualQuantity")
    return int(text) if text.isdecimal() and len(text) < 10 else 0


def _all(root: ElementTree.Element, name: str) -> Iterator[ElementTree.Element]:
    """The elements of this name, whatever their namespace: each version of the standard has its own."""
    return (one for one in root.iter() if one.tag.rpartition("}")[2] == name)


def _told(one: ElementTree.Element, name: str) -> str:
    return next((value for key, value in one.attrib.items() if key.rpartition("}")[2] == name), "")


def _text(item: ElementTree.Element | None, name: str) -> str:
    return next((one.text or "" for one in _all(item, name)), "") if item is not None else ""
