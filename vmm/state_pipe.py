"""A template's state on its way to QEMU and from it: through a pipe.

QEMU's own user may open no file of ours, so it is handed a descriptor (`fd:`); since QEMU 11 that must be no
file's, and what it takes instead (`file:` and a descriptor set) QEMU 7.2 does not know. A pipe all take.
"""

from __future__ import annotations

import fcntl
import os
import select
import time
from pathlib import Path

from host.errors import DeadlinePassed


def reader(path: Path | str) -> int:
    """A descriptor for QEMU to read the file's content from, whole, which lies in the pipe already.

    A state larger than the host allows a pipe to hold (1 MiB for ordinary users; states have 64 KiB) is the
    file itself, as QEMU takes it up to version 10. The caller closes it.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    size = os.fstat(file).st_size
    out, into = os.pipe2(os.O_CLOEXEC)
    try:
        fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, max(size, 1 << 16))
        while size > 0 and (moved := os.sendfile(into, file, None, size)):
            size -= moved
    except OSError:
        os.close(out)
        return file
    finally:
        os.close(into)
    os.close(file)
    return out


class Writer:
    """A pipe for QEMU to write to, `into`, and what empties it into a file."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._out, self.into = os.pipe2(os.O_CLOEXEC)

    def lent(self) -> None:
        """QEMU has its end: ours goes, so that its end is the end."""
        os.close(self.into)
        self.into = -1

    def empty(self, deadline: float) -> None:
        """Move all to the file, until QEMU closes its end, which it does when all is over.

        Nobody may ask QEMU anything before: a full pipe stops it whole. DeadlinePassed.
        """
        while select.select([self._out], [], [], max(0.0, deadline - time.monotonic()))[0]:
            view = memoryview(os.read(self._out, 1 << 20))
            if not view:
                return
            while view:
                view = view[os.write(self._file, view) :]
        raise DeadlinePassed("cannot save the machine's state", why="QEMU does not end what it writes")

    def close(self) -> None:
        """Close what is open of the pipe."""
        for fd in (self._out, self.into):
            if fd >= 0:
                os.close(fd)
