"""What a container changed of its image: its upper layer read against the layers below (overlayfs.rst)."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence

ADDED, CHANGED, DELETED = "A", "C", "D"
_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")


def changes(upper: str, lower_dirs: Sequence[str]) -> list[tuple[str, str]]:
    """(A, C or D, path) for every path that differs, sorted by path."""
    return sorted(_below(upper, lower_dirs, ""), key=lambda one: one[1])


def _below(upper: str, lower: Sequence[str], path: str) -> Iterator[tuple[str, str]]:
    for entry in os.scandir(upper + path):
        here = f"{path}/{entry.name}"
        seen = entry.stat(follow_symlinks=False)
        known = _in_lower(lower, here)
        if stat.S_ISCHR(seen.st_mode) and seen.st_rdev == 0:
            if known:
                yield DELETED, here
        elif not stat.S_ISDIR(seen.st_mode):
            yield CHANGED if known else ADDED, here
        else:
            opaque = _is_opaque(upper + here)
            yield CHANGED if known else ADDED, here
            if opaque and known:
                yield from _hidden(lower, upper, here)
            yield from _below(upper, () if opaque else lower, here)


def _hidden(lower: Sequence[str], upper: str, path: str) -> Iterator[tuple[str, str]]:
    """What an opaque directory took away: names below that are not made again above."""
    names = {name for one in lower for name in _listed(one + path)}
    for name in names - set(os.listdir(upper + path)):
        if _in_lower(lower, f"{path}/{name}"):
            yield DELETED, f"{path}/{name}"


def _listed(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _in_lower(lower: Sequence[str], path: str) -> bool:
    """Whether the layers below show the path: the topmost that knows it decides."""
    for one in lower:
        try:
            seen = os.lstat(one + path)
        except (FileNotFoundError, NotADirectoryError):
            if _is_opaque(os.path.dirname(one + path)):
                return False
            continue
        return not (stat.S_ISCHR(seen.st_mode) and seen.st_rdev == 0)
    return False


def _is_opaque(path: str) -> bool:
    for name in _OPAQUE:
        try:
            if os.getxattr(path, name, follow_symlinks=False) == b"y":
                return True
        except OSError:
            continue
    return False
