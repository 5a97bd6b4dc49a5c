"""Disk as three numbers an object: what it claims to be, what is allocated, what nobody shares."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from bench.core.target import Parts
from host import paths

# linux/fs.h and linux/fiemap.h
_FS_IOC_FIEMAP = 0xC020660B
_FIEMAP_FLAG_SYNC = 1
_EXTENT_SHARED = 0x2000
_EXTENT_LAST = 0x1
_HEADER = "=QQLLLL"
_EXTENT = "=QQQQQLLLL"
_COUNT = 256


def of(folders: Iterable[Path]) -> dict[str, float]:
    """Apparent, allocated and unique bytes of all files and directories below, after sync(2)."""
    os.sync()
    total = dict.fromkeys(("apparent_bytes", "allocated_bytes", "unique_bytes"), 0.0)
    seen: set[tuple[int, int]] = set()
    for path in _below(folders):
        status = os.lstat(path)
        if (status.st_dev, status.st_ino) in seen:
            continue  # a hard link takes its blocks once
        seen.add((status.st_dev, status.st_ino))
        allocated = status.st_blocks * 512
        total["apparent_bytes"] += status.st_size
        total["allocated_bytes"] += allocated
        total["unique_bytes"] += max(allocated - _shared_bytes(path), 0)
    return total


def slope(
    start: Callable[[], AbstractContextManager[object]], most: int, accelerator: str | None
) -> tuple[Parts, ...]:
    """Start instances one after another; allocated bytes of the whole home at five counts, and their slope.

    The store is part of it, which has all it needs before: what grows is the instances'.
    """
    points: list[tuple[float, float]] = []
    with contextlib.ExitStack() as stack:
        for count in range(1, most + 1):
            stack.enter_context(start())
            if count == 1 or count % max(most // 4, 1) == 0:
                points.append((float(count), of([paths.home()])["allocated_bytes"]))
    # numpy starts threads: not before the last container, whose clone(2) wants a process of one
    from bench.core import stats

    found = stats.theil_sen([x for x, _ in points], [y for _, y in points]).slope.estimate
    told = [{"instances_on_disk": count, "home_allocated_bytes": size} for count, size in points]
    told[-1]["disk_per_instance_bytes"] = found
    return tuple(Parts(values=values, accelerator=accelerator) for values in told)


def entries(folders: Iterable[Path]) -> set[Path]:
    """What lies directly in the directories: the difference of two is what was added."""
    return {child for folder in folders if folder.is_dir() for child in folder.iterdir()}


def _below(folders: Iterable[Path]) -> Iterator[str]:
    for folder in folders:
        yield str(folder)
        for where, directories, files in os.walk(folder):
            yield from (os.path.join(where, name) for name in (*directories, *files))


def _shared_bytes(path: str) -> int:
    """Bytes in extents shared with another file (reflinks); 0 where the file system cannot say."""
    if not os.path.isfile(path) or os.path.islink(path):
        return 0
    shared, start = 0, 0
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while True:
            extents = _extents(fd, start)
            for logical, length, flags in extents:
                shared += length if flags & _EXTENT_SHARED else 0
                start = logical + length
            if len(extents) < _COUNT or extents[-1][2] & _EXTENT_LAST:
                return shared
    except OSError:
        return 0
    finally:
        os.close(fd)


def _extents(fd: int, start: int) -> list[tuple[int, int, int]]:
    size = struct.calcsize(_HEADER) + _COUNT * struct.calcsize(_EXTENT)
    request = ctypes.create_string_buffer(size)
    struct.pack_into(_HEADER, request, 0, start, (1 << 64) - 1 - start, _FIEMAP_FLAG_SYNC, 0, _COUNT, 0)
    fcntl.ioctl(fd, _FS_IOC_FIEMAP, request)
    mapped = struct.unpack_from(_HEADER, request, 0)[3]
    found = []
    for index in range(mapped):
        offset = struct.calcsize(_HEADER) + index * struct.calcsize(_EXTENT)
        fields = struct.unpack_from(_EXTENT, request, offset)
        found.append((fields[0], fields[2], fields[5]))
    return found
