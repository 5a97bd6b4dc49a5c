"""ISO 9660 discs that boot: told by their content, and which firmware their boot record speaks to.

Source: ECMA-119 8.1 (volume descriptors), "El Torito" bootable CD-ROM specification 1.0, UEFI 2.10 13.3.2.1.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from host.errors import BadData

_SECTOR_BYTES = 2048
_FIRST_DESCRIPTOR = 16
_STANDARD_ID = b"CD001"
_EL_TORITO = b"EL TORITO SPECIFICATION"
_ENTRY_BYTES = 32
_PLATFORMS = {0x00: "bios", 0xEF: "uefi"}
_HEADER, _LAST_HEADER, _BOOTABLE = 0x90, 0x91, 0x88


def is_iso(path: Path) -> bool:
    """Whether the file is an ISO 9660 file system, by its content."""
    with path.open("rb") as file:
        return _sector(file, _FIRST_DESCRIPTOR)[1:6] == _STANDARD_ID


def boots(path: Path) -> tuple[str, ...]:
    """By which firmware the disc boots: `bios`, `uefi` or both, in the order of its boot catalogue.

    BadData where it has no boot record, or a damaged one.
    """
    with path.open("rb") as file:
        record = _sector(file, _FIRST_DESCRIPTOR + 1)
        if record[:6] != b"\0" + _STANDARD_ID or record[7:].rstrip(b"\0")[: len(_EL_TORITO)] != _EL_TORITO:
            raise BadData("cannot boot from the disc", str(path), "it has no boot record (El Torito)")
        (at,) = struct.unpack_from("<L", record, 0x47)
        catalogue = _sector(file, at)
    if (
        catalogue[0] != 1
        or catalogue[30:32] != b"\x55\xaa"
        or sum(struct.unpack("<16H", catalogue[:32])) % 65536
    ):
        raise BadData("cannot boot from the disc", str(path), "its boot catalogue is damaged")
    return tuple(dict.fromkeys(_platforms(catalogue)))


def _sector(file: IO[bytes], number: int) -> bytes:
    file.seek(number * _SECTOR_BYTES)
    return file.read(_SECTOR_BYTES).ljust(_SECTOR_BYTES, b"\0")


def _platforms(catalogue: bytes) -> Iterator[str]:
    """The platform of each bootable entry: first the validation entry tells it, then section headers do."""
    platform = catalogue[1]
    for at in range(_ENTRY_BYTES, _SECTOR_BYTES, _ENTRY_BYTES):
        kind = catalogue[at]
        if kind in (_HEADER, _LAST_HEADER):
            platform = catalogue[at + 1]
        elif kind == _BOOTABLE and platform in _PLATFORMS:
            yield _PLATFORMS[platform]
