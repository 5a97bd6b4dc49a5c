"""Give a directory tree to a user, following no link of it."""

from __future__ import annotations

import os

from host.errors import from_os_error
from host.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from host.linux.idmap import IdMaps

_WHAT = "cannot give the volume to the container's user"


def give(path: str, uid: int, gid: int, maps: IdMaps | None) -> None:
    """Give `path` and all below it to the user of these ids inside; `maps` says who that is out here.

    Without root only the root of a namespace with these maps may do so.
    """
    if maps and os.geteuid():
        from host.linux import idmap

        return idmap.inside(maps, lambda: _chown(path, uid, gid), f"{_WHAT} {path}")
    bases = (maps.uids[0][1], maps.gids[0][1]) if maps else (0, 0)
    try:
        _chown(path, bases[0] + uid, bases[1] + gid)
    except OSError as error:
        raise from_os_error(_WHAT, error, path) from None


def _chown(path: str, uid: int, gid: int) -> None:
    """chown(2) of `path` and all below it; links themselves, never what they point at."""
    for _, directories, names, fd in os.fwalk(path, follow_symlinks=False):
        os.fchown(fd, uid, gid)
        for name in (*names, *directories):  # a link to a directory is listed among the directories
            os.chown(name, uid, gid, dir_fd=fd, follow_symlinks=False)
