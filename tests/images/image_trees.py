"""Archives and layers made by hand, for the tests of images."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

from images import unpack

Entry = tuple[str, dict[str, object]]


def tar(*entries: Entry, fmt: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of entries: name and TarInfo fields; `data` is the content, `pax` its headers."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=fmt) as archive:
        for name, fields in entries:
            fields = dict(fields)
            data = fields.pop("data", b"")
            assert isinstance(data, bytes)
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o755 if fields.get("type") == tarfile.DIRTYPE else 0o644
            member.uid, member.gid = os.geteuid(), os.getegid()
            member.pax_headers = fields.pop("pax", {})  # type: ignore[assignment]
            for key, value in fields.items():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def a_file(name: str, data: bytes = b"x", **fields: object) -> Entry:
    return name, {"data": data, **fields}


def a_dir(name: str, **fields: object) -> Entry:
    return name, {"type": tarfile.DIRTYPE, **fields}


def a_link(name: str, target: str) -> Entry:
    return name, {"type": tarfile.SYMTYPE, "linkname": target}


def a_hard_link(name: str, target: str) -> Entry:
    return name, {"type": tarfile.LNKTYPE, "linkname": target}


def stacked(folder: Path, *layers: list[Entry]) -> tuple[Path, ...]:
    """Apply lists of entries one over the other; the layers' directories, top first."""
    stack: tuple[Path, ...] = ()
    for entries in layers:
        target = folder / f"stacked{len(stack)}"
        target.mkdir()
        unpack.apply(io.BytesIO(tar(*entries)), target, stack)
        stack = (target, *stack)
    return stack
