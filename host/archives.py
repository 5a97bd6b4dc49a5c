"""Tar archives of strangers, unpacked so that nothing of them leaves the folder."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path


def unpack(archive: tarfile.TarFile, folder: str | Path) -> None:
    """Unpack all of an archive, a stream too, below `folder`.

    Raises tarfile.TarError for a name or link that leads out, and for a device. PEP 706's filter, also where
    Python has none yet (Debian 12 has 3.11.2, the filter came with 3.11.4).
    """
    if hasattr(tarfile, "data_filter"):
        archive.extractall(folder, filter="data")
        return
    root = os.path.realpath(folder)
    for member in archive:
        _check(member, root)
        member.uid, member.gid, member.uname, member.gname = os.geteuid(), os.getegid(), "", ""
        member.mode = (member.mode & 0o755 | 0o600) if not member.isdir() else 0o755
        archive.extract(member, folder)


def _check(member: tarfile.TarInfo, root: str) -> None:
    """Refuse what leads out; links that came before are followed, as the kernel would."""
    if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
        raise tarfile.ExtractError(f"{member.name!r} is a device or a pipe")
    _below(root, os.path.join(root, member.name.lstrip("/")), member.name)
    if member.issym():
        _below(root, os.path.join(root, os.path.dirname(member.name), member.linkname), member.name)
    elif member.islnk():
        _below(root, os.path.join(root, member.linkname), member.name)


def _below(root: str, path: str, name: str) -> None:
    real = os.path.realpath(path)
    if real != root and not real.startswith(root + os.sep):
        raise tarfile.ExtractError(f"{name!r} would lie outside, at {real}")
