"""Records on disk: written whole or not at all, under a lock, readable after any kill -9."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from host import json_text
from host.errors import BadData, DeadlinePassed
from host.typing import Any

Record = dict[str, Any]


def write_bytes(path: Path, data: bytes, mode: int = 0o644, durable: bool = True) -> None:
    """Replace the file as a whole: temp file beside it, fsync, rename(2), atomic in one directory."""
    temp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temp, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temp)
        raise


def write(path: Path, record: Record, durable: bool = True) -> None:
    """Replace a JSON record as a whole; `durable=False` skips fsync where its loss would be recognised.

    What lasts is indented for people; the rest is not, since only the encoder without indent is in C.
    """
    import json  # reading does without

    text = json.dumps(record, indent=1 if durable else None, sort_keys=True)
    write_bytes(path, text.encode() + b"\n", durable=durable)


def read(path: Path) -> Record:
    """The JSON record in a file; FileNotFoundError when there is none, BadData when it is no JSON object."""
    text = path.read_bytes()
    try:
        record = json_text.loads(text)
    except ValueError as error:
        raise BadData("cannot read the record", str(path), str(error), "vmm doctor --repair") from None
    if not isinstance(record, dict):
        raise BadData("cannot read the record", str(path), "not a JSON object", "vmm doctor --repair")
    return record


@contextlib.contextmanager
def lock(path: Path, wait_s: float = 30.0, shared: bool = False) -> Iterator[int]:
    """Hold flock(2) on the file `path`; the kernel drops it when the holder dies, so no lock is ever stale.

    Raises DeadlinePassed after `wait_s` seconds; yields the descriptor.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o644)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, flags, 0o644)
    try:
        _flock(fd, path, wait_s, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield fd
    finally:
        os.close(fd)


def _flock(fd: int, path: Path, wait_s: float, kind: int) -> None:
    deadline, pause_s = time.monotonic() + wait_s, 0.001
    while True:
        try:
            return fcntl.flock(fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                why = f"another vmm command has held it for {wait_s:g} s"
                raise DeadlinePassed("cannot take the lock", str(path), why) from None
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.05)


def is_free(path: Path) -> bool:
    """Whether nobody holds flock(2) on the path now."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True
