"""Whose a file is inside an image, when an ordinary user's containers made it."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence

# What the kernel shows for an id without a name in the namespace (user_namespaces(7), overflowuid).
NOBODY = 65534


def inside(uid: int, gid: int) -> tuple[int, int]:
    """The ids as a container of this user sees them: the user is root, subordinate ids are the others.

    For root they are what they are.
    """
    if os.geteuid() == 0:
        return uid, gid
    uids, gids = _maps()
    return _mapped(uid, uids), _mapped(gid, gids)


def _mapped(number: int, ranges: Sequence[tuple[int, int, int]]) -> int:
    for first, outside, count in ranges:
        if outside <= number < outside + count:
            return first + number - outside
    return NOBODY


@functools.cache
def _maps() -> tuple[Sequence[tuple[int, int, int]], Sequence[tuple[int, int, int]]]:
    from host.linux import idmap

    maps = idmap.of_user()
    return maps.uids, maps.gids
