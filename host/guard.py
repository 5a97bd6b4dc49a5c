"""A process beside ours that undoes what we leave half done when we are killed.

What has to stand still for a while must not stand still for good: nobody who finds it later could tell
whether it was meant to.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def guarded(undo: Callable[[], None]) -> Iterator[None]:
    """Have `undo` called by the guard if we are killed inside; errors are ours to undo.

    Enter it before what is to be let go of is held: the guard has a copy of every descriptor.
    """
    listening, ours = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()  # a signal to our group, such as the terminal's, is not for it
            os.close(ours)
            nowhere = os.open(os.devnull, os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(nowhere, fd)
            if not os.read(listening, 1):
                undo()
        finally:
            os._exit(0)
    os.close(listening)
    try:
        yield
    finally:
        os.write(ours, b".")
        os.close(ours)
        os.waitpid(pid, 0)
