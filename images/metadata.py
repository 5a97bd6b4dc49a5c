"""What belongs to a file besides its content: owner, mode, xattrs, times; set so that all of them stay."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field

from images.merged import Found

_XATTR = "SCHILY.xattr."
_COPY_BYTES = 1 << 18
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Rights:
    """What this process may give to files: owners, devices, and the xattr namespace that overlayfs reads."""

    owners: bool
    devices: bool
    overlay_xattr: str


def rights() -> Rights:
    """Root keeps owners and devices; a user owns every file, and mounts overlayfs with `userxattr`."""
    root = os.geteuid() == 0
    return Rights(root, root, "trusted.overlay." if root else "user.overlay.")


@dataclass(slots=True)
class Outcome:
    """What an unpacking did: entries and bytes of content, and what this user could not do."""

    entries: int = 0
    content_bytes: int = 0
    limits: set[str] = field(default_factory=set)


def _mtime_ns(member: tarfile.TarInfo) -> int:
    exact = member.pax_headers.get("mtime")
    if exact is None:
        return int(member.mtime) * 10**9
    seconds, _, part = exact.partition(".")
    part_ns = int(part[:9].ljust(9, "0")) if part else 0
    return int(seconds) * 10**9 + (-part_ns if seconds.startswith("-") else part_ns)


def _xattrs(member: tarfile.TarInfo, may: Rights) -> Iterator[tuple[str, bytes]]:
    for key, value in member.pax_headers.items():
        if key.startswith(_XATTR):
            yield escape_xattr(key.removeprefix(_XATTR)), value.encode("utf-8", "surrogateescape")


def escape_xattr(name: str) -> str:
    """Keep an image's own `trusted.overlay.x` as `trusted.overlay.overlay.x`: else overlayfs would obey it.

    Linux shows it again by its own name since 6.7.
    """
    for prefix in ("trusted.overlay.", "user.overlay."):
        if name.startswith(prefix):
            return prefix + "overlay." + name.removeprefix(prefix)
    return name


def settle_fd(fd: int, member: tarfile.TarInfo, may: Rights, outcome: Outcome) -> None:
    """Give an open file or directory the entry's owner, mode, xattrs, time, in the order that keeps all."""
    if may.owners:
        os.fchown(fd, member.uid, member.gid)
    os.fchmod(fd, member.mode & 0o7777)
    for name, value in _xattrs(member, may):
        _set_xattr(fd, name, value, outcome)
    when = _mtime_ns(member)
    with contextlib.suppress(OverflowError):
        os.utime(fd, ns=(when, when))


def settle_at(directory: int, name: str, member: tarfile.TarInfo, may: Rights, outcome: Outcome) -> None:
    """The same for what cannot be opened: links, devices, FIFOs."""
    if may.owners:
        os.chown(name, member.uid, member.gid, dir_fd=directory, follow_symlinks=False)
    if not member.issym():
        os.chmod(name, member.mode & 0o7777, dir_fd=directory)
    for key, value in _xattrs(member, may):
        _set_xattr(f"/proc/self/fd/{directory}/{name}", key, value, outcome)
    when = _mtime_ns(member)
    with contextlib.suppress(OverflowError):
        os.utime(name, ns=(when, when), dir_fd=directory, follow_symlinks=False)


def _set_xattr(where: int | str, name: str, value: bytes, outcome: Outcome) -> None:
    try:
        if isinstance(where, int):
            os.setxattr(where, name, value)
        else:
            os.setxattr(where, name, value, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EACCES):
            raise
        outcome.limits.add(f"the extended attribute {name} cannot be set here: it is left out")


def copy_metadata(found: Found, name: str, directory: int, may: Rights) -> None:
    """Give `name` in the open directory what the file that was found has: owner, mode, xattrs, times."""
    status, path = found.status, f"/proc/self/fd/{directory}/{name}"
    if may.owners:
        os.chown(name, status.st_uid, status.st_gid, dir_fd=directory, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=directory)
    for key in os.listxattr(found.path, follow_symlinks=False):
        if not key.startswith(may.overlay_xattr):
            value = os.getxattr(found.path, key, follow_symlinks=False)
            _set_xattr(path, key, value, Outcome())
    times = (status.st_atime_ns, status.st_mtime_ns)
    os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False)


def copy_file(found: Found, name: str, directory: int, may: Rights) -> None:
    """Copy a file that is no directory to `name` in the open directory, with all that it has."""
    status = found.status
    if stat.S_ISREG(status.st_mode):
        with open(found.path, "rb") as source:
            fd = os.open(name, _NEW_FILE, 0o600, dir_fd=directory)
            with open(fd, "wb") as copy:
                shutil.copyfileobj(source, copy, _COPY_BYTES)
    elif stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(found.path), name, dir_fd=directory)
    else:
        os.mknod(name, stat.S_IFMT(status.st_mode) | 0o600, status.st_rdev, dir_fd=directory)
    copy_metadata(found, name, directory, may)
