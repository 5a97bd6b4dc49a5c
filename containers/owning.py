"""Give a directory tree to a user, following no link of it."""

from __future__ import annotations

import os

from host.errors import from_os_error


def give(path: str, uid: int, gid: int) -> None:
    """chown(2) of `path` and all below it; links themselves, never what they point at."""
    try:
        for _, directories, names, fd in os.fwalk(path, follow_symlinks=False):
            os.fchown(fd, uid, gid)
            for name in (*names, *directories):  # a link to a directory is listed among the directories
                os.chown(name, uid, gid, dir_fd=fd, follow_symlinks=False)
    except OSError as error:
        raise from_os_error("cannot give the volume to the container's user", error, path) from None
