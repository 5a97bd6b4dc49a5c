"""Which file the command is, and its execve(2): the last steps of a child inside, on bytes only."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence

from host.linux import syscalls as sc

_MAX_INTERPRETERS = 6  # binfmt_script: the kernel gives up before that many


def runnable(candidates: Sequence[bytes], inside: Callable[[bytes, int], int]) -> Sequence[bytes]:
    """Those that are there; raises ELOOP where one is a magic link, or names one as its interpreter.

    `#!/proc/self/exe` would run the host's Python inside and leave it open for writing (CVE-2019-5736).
    `inside` opens a path of the container. The first stays where none is there: execve(2) says why.
    """
    return [path for path in candidates if _exists(path, inside)] or candidates[:1]


def _exists(path: bytes, inside: Callable[[bytes, int], int]) -> bool:
    for _ in range(_MAX_INTERPRETERS):
        try:
            fd = inside(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise
            return error.errno not in (errno.ENOENT, errno.ENOTDIR)
        try:
            head = os.read(fd, 256)
        except OSError:
            return True  # a directory: execve says it best
        finally:
            os.close(fd)
        words = head[2:].split(b"\n", 1)[0].split(None, 1)
        if not head.startswith(b"#!") or not words:
            return True
        path = words[0]
    return True


def run_first(candidates: Sequence[bytes], argv: sc.Words, env: sc.Words) -> None:
    """execve(2) of the first path that exists; raises the most telling error."""
    failure = OSError(errno.ENOENT, "", candidates[0])
    for path in candidates:
        try:
            sc.execve(path, argv, env)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                failure = error
    raise failure
