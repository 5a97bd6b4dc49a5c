"""A time namespace: monotonic and boot clocks that stand elsewhere inside (time_namespaces(7))."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from host.errors import HostUnfit
from host.linux import syscalls as sc


@contextlib.contextmanager
def shifted(offset_s: float) -> Iterator[None]:
    """Children that this process makes in the context live in a new time namespace, it itself does not.

    The offsets can be written only before the first process is in: so it is the parent that unshares, and
    returns to its own afterwards.
    """
    own = os.open("/proc/self/ns/time", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(offset_s)
        try:
            yield
        finally:
            sc.setns(own, sc.CLONE_NEWTIME)
    finally:
        os.close(own)


def _enter(offset_s: float) -> None:
    try:
        sc.unshare(sc.CLONE_NEWTIME)
        _write_offsets(offset_s)
    except OSError as error:
        hint = "as root, on a kernel with CONFIG_TIME_NS; or leave --time-offset out"
        why = os.strerror(error.errno or 0)
        raise HostUnfit("cannot make the time namespace", why=why, hint=hint) from None


def _write_offsets(offset_s: float) -> None:
    seconds, fraction = divmod(offset_s, 1)
    words = f"{int(seconds)} {int(fraction * 1e9)}"
    with open("/proc/self/timens_offsets", "w", encoding="ascii") as file:
        file.write(f"monotonic {words}\nboottime {words}\n")
