"""The tree that overlayfs would show of a stack of unpacked layers, read without mounting it.

A layer lies on disk in overlayfs' own form (kernel Documentation/filesystems/overlayfs.rst): a whiteout is a
character device 0:0, an opaque directory has the xattr `trusted.overlay.opaque` (or `user.overlay.opaque`) =
`y`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from host.errors import BadData

OPAQUE_XATTRS = ("trusted.overlay.opaque", "user.overlay.opaque")
_MAX_LINKS = 40

Parts = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """Something in the merged tree: the layer's file that shows, and its status (lstat)."""

    path: Path
    status: os.stat_result


def is_whiteout(status: os.stat_result) -> bool:
    """Whether overlayfs takes the file for "deleted here"."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(directory: Path) -> bool:
    """Whether the layer's directory hides what lower layers have in it."""
    for name in OPAQUE_XATTRS:
        try:
            if os.getxattr(directory, name, follow_symlinks=False) == b"y":
                return True
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.ENOTSUP, errno.EPERM):
                raise
    return False


def split(path: str) -> list[str]:
    """The components of a path, without empty ones and dots."""
    return [part for part in path.split("/") if part not in ("", ".")]


class Merged:
    """The merged tree of layers, given top first.

    Nothing is cached across writes: make a new one after changing.
    """

    def __init__(self, layers: Sequence[Path]) -> None:
        self.layers = tuple(layers)
        self._directories: dict[Parts, tuple[Path, ...]] = {(): self.layers}

    def directories(self, at: Parts) -> tuple[Path, ...]:
        """The layers' directories that make up the directory `at`, top first; none if it is none."""
        known = self._directories.get(at)
        if known is None:
            known = self._directories[at] = tuple(self._stack(at))
        return known

    def _stack(self, at: Parts) -> Iterator[Path]:
        for above in self.directories(at[:-1]):
            path = above / at[-1]
            status = lstat(path)
            if status is None:
                continue
            if not stat.S_ISDIR(status.st_mode):
                return
            yield path
            if is_opaque(path):
                return

    def lookup(self, at: Parts) -> Found | None:
        """What shows at real components (no symbolic link among the parents), or None."""
        if not at:
            return Found(self.layers[0], os.lstat(self.layers[0])) if self.layers else None
        for above in self.directories(at[:-1]):
            path = above / at[-1]
            status = lstat(path)
            if status is not None:
                return None if is_whiteout(status) else Found(path, status)
        return None

    def resolve(self, path: str, follow_last: bool = True) -> Parts:
        """The real components of a path, its symbolic links followed inside this tree as chroot(2) would.

        What does not exist stays in the path as it is. BadData when the links run in a circle.
        """
        return resolve(path, self.lookup, follow_last)

    def find(self, path: str, follow_last: bool = True) -> Found | None:
        """What shows at a path, its symbolic links followed inside this tree."""
        return self.lookup(self.resolve(path, follow_last))

    def names(self, at: Parts) -> list[str]:
        """The sorted names in a directory of the merged tree."""
        seen: dict[str, bool] = {}
        for directory in self.directories(at):
            with os.scandir(directory) as entries:
                for entry in entries:
                    if entry.name not in seen:
                        seen[entry.name] = not is_whiteout(entry.stat(follow_symlinks=False))
        return sorted(name for name, shows in seen.items() if shows)

    def walk(self, at: Parts = ()) -> Iterator[tuple[Parts, Found]]:
        """Everything below a directory, parents first, names sorted."""
        for name in self.names(at):
            found = self.lookup((*at, name))
            if found is None:
                continue
            yield (*at, name), found
            if stat.S_ISDIR(found.status.st_mode):
                yield from self.walk((*at, name))


def lstat(path: Path) -> os.stat_result | None:
    """lstat(2), None where nothing is."""
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def resolve(path: str, lookup: Callable[[Parts], Found | None], follow_last: bool = True) -> Parts:
    """The real components of a path, its links followed inside the tree that `lookup` reads."""
    at: list[str] = []
    todo, links = split(path)[::-1], 0
    while todo:
        part = todo.pop()
        if part == "..":
            at = at[:-1]
            continue
        found = lookup((*at, part))
        at.append(part)
        if found is None or not stat.S_ISLNK(found.status.st_mode) or (not todo and not follow_last):
            continue
        links += 1
        if links > _MAX_LINKS:
            raise BadData("cannot follow the path", path, "its symbolic links run in a circle")
        target = os.readlink(found.path)
        at = [] if target.startswith("/") else at[:-1]
        todo.extend(split(target)[::-1])
    return tuple(at)
