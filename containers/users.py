"""Who a command runs as: a user's words read against the image's own /etc/passwd and /etc/group.

Read by us, from the layers, before the container exists: NSS would load the image's libraries into our
process (CVE-2019-14271).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence

from host.errors import Usage
from host.typing import NamedTuple

_MAX_ID = (1 << 32) - 2
_MAX_FILE_BYTES = 1 << 20


class Identity(NamedTuple):
    """Numeric ids and the home directory of the command's user."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    home: str = "/"


def resolve(words: str, roots: Sequence[str], extra_groups: Sequence[str] = ()) -> Identity:
    """The ids behind `USER[:GROUP]`, names looked up in the topmost of `roots` that has the file.

    Raises Usage for a name that is not there, a number out of range, and anything that is neither.
    """
    passwd = _table(roots, "etc/passwd", 7)
    group = _table(roots, "etc/group", 4)
    user, colon, group_word = (words or "0").partition(":")
    if not user or (colon and not group_word):
        raise Usage("cannot run as the user", repr(words), "write it as USER, UID, USER:GROUP or UID:GID")
    entry = _find(user, passwd)
    uid = _number(entry[2] if entry else user, words)
    gid = _gid(group_word, group, words) if group_word else _number(entry[3], words) if entry else 0
    name = entry[0] if entry else None
    member = () if group_word else tuple(_number(one[2], words) for one in group if name in one[3].split(","))
    extra = tuple(_gid(one, group, one) for one in extra_groups)
    groups = tuple(dict.fromkeys((gid, *member, *extra)))
    return Identity(uid, gid, groups, (entry[5] if entry else "") or "/")


def _find(user: str, passwd: list[list[str]]) -> list[str] | None:
    named = next((one for one in passwd if one[0] == user), None)
    if named or not user.isdecimal():
        return named
    return next((one for one in passwd if one[2].isdecimal() and int(one[2]) == int(user)), None)


def _gid(word: str, group: list[list[str]], words: str) -> int:
    named = next((one for one in group if one[0] == word), None)
    return _number(named[2] if named else word, words)


def _number(word: str, words: str) -> int:
    # isdecimal alone would take Arabic digits; int alone would take "1_000", " 1" and "-1" (CVE-2026-30892
    # class)
    if not (word.isascii() and word.isdecimal()):
        raise Usage(
            "cannot run as the user",
            repr(words),
            f"{word!r} is not in the image",
            "give numbers, as 1000:1000",
        )
    if int(word) > _MAX_ID:
        raise Usage("cannot run as the user", repr(words), f"{word} is not an id (0 to {_MAX_ID})")
    return int(word)


def _table(roots: Sequence[str], name: str, columns: int) -> list[list[str]]:
    for root in roots:
        data = _read_inside(root, name)
        if data is not None:
            rows = [line.split(":") for line in data.decode("utf-8", "replace").splitlines()]
            return [row for row in rows if len(row) >= columns]
    return []


def _open_below(root: int, name: str) -> int:
    """Open for reading; where a link is on the way, by openat2(2) (RESOLVE_IN_ROOT), which loads ctypes."""
    directory, _, file = name.partition("/")
    try:
        above = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root)
        try:
            return os.open(file, _READ | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
        finally:
            os.close(above)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
    from host.linux import syscalls

    return syscalls.openat2(root, name.encode(), _READ, syscalls.RESOLVE_IN_ROOT)


_READ = os.O_RDONLY | os.O_NONBLOCK


def _read_inside(root: str, name: str) -> bytes | None:
    """The regular file `name` inside `root`; no link of the image leads out of it (openat2,
    RESOLVE_IN_ROOT).
    """
    try:
        root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fd = _open_below(root_fd, name)
    except OSError as error:
        # overlayfs's whiteout is the device 0:0, which nobody can open: deleted above, do not look below
        return b"" if error.errno == errno.ENXIO else None
    finally:
        os.close(root_fd)
    try:
        seen = os.fstat(fd)
        if not stat.S_ISREG(seen.st_mode):
            return b""
        return os.read(fd, min(seen.st_size, _MAX_FILE_BYTES))
    finally:
        os.close(fd)
