"""What a detached container said: records in a file that is rotated, read back by line.

A record is <u8 stream><u64 unix ns><u32 length> in little endian and that many bytes: a machine's log port
writes the same. Whoever reads a FIFO appends here; a record that a kill -9 cut short is cut off by the next
writer.
"""

from __future__ import annotations

import errno
import os
import struct
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from host.typing import NamedTuple

HEADER = struct.Struct("<BQI")
STDOUT, STDERR = 1, 2
_MAX_RECORD_BYTES = 1 << 20


class Record(NamedTuple):
    """One read's worth of output."""

    stream: int
    unix_ns: int
    data: bytes


class Writer:
    """Append to `path`, which never grows beyond `limit_bytes`; `files` of that size are kept, the newest
    first.
    """

    def __init__(self, path: Path, limit_bytes: int, files: int) -> None:
        self.path, self.limit_bytes, self.files = path, limit_bytes, max(1, files)
        self.fd = -1

    def _open(self) -> None:
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.size = whole_bytes(self.fd)
        if self.size != os.fstat(self.fd).st_size:
            os.ftruncate(self.fd, self.size)

    def append(self, stream: int, data: bytes) -> None:
        """Write one record, whole or not at all; at the limit the file moves aside first.

        Raises OSError where the disk is full: that record is lost, later ones need not be.
        """
        if self.fd < 0:
            self._open()
        if self.size and self.size + HEADER.size + len(data) > self.limit_bytes:
            self._rotate()
        record = HEADER.pack(stream, time.time_ns(), len(data)) + data
        if os.write(self.fd, record) < len(record):
            os.ftruncate(self.fd, self.size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        self.size += len(record)

    def _rotate(self) -> None:
        self.close()
        for number in range(self.files - 1, 0, -1):
            older = self.path if number == 1 else rotated(self.path, number - 1)
            try:
                os.rename(older, rotated(self.path, number))
            except FileNotFoundError:
                pass
        if self.files == 1:
            os.unlink(self.path)
        self._open()

    def close(self) -> None:
        """Close the file."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


def rotated(path: Path, number: int) -> Path:
    """The name of the file that is `number` rotations old."""
    return path.with_name(f"{path.name}.{number}")


def whole_bytes(fd: int) -> int:
    """How much of a log file is whole records."""
    size, offset = os.fstat(fd).st_size, 0
    while offset + HEADER.size <= size:
        _, _, length = HEADER.unpack(os.pread(fd, HEADER.size, offset))
        if length > _MAX_RECORD_BYTES or offset + HEADER.size + length > size:
            break
        offset += HEADER.size + length
    return offset


def files(path: Path) -> list[Path]:
    """The log's files that exist, oldest first."""
    older = sorted(path.parent.glob(f"{path.name}.[0-9]*"), key=lambda one: -int(one.suffix[1:]))
    return [*older, path] if path.exists() else older


class Reader:
    """Records from the oldest on; at the end it returns, and goes on where it was when called again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._queue = deque(self._opened(one) for one in files(path))
        self._rest = b""

    @staticmethod
    def _opened(path: Path) -> int:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def records(self) -> Iterator[Record]:
        """The records that are there now."""
        self._follow_rotation()
        while self._queue:
            yield from self._of_file(self._queue[0])
            if len(self._queue) == 1:
                return
            os.close(self._queue.popleft())
            self._rest = b""

    def _of_file(self, fd: int) -> Iterator[Record]:
        while chunk := os.read(fd, 1 << 16):
            self._rest += chunk
            while record := self._next():
                yield record

    def _next(self) -> Record | None:
        if len(self._rest) < HEADER.size:
            return None
        stream, unix_ns, length = HEADER.unpack_from(self._rest)
        if len(self._rest) < HEADER.size + length:
            return None
        data = self._rest[HEADER.size : HEADER.size + length]
        self._rest = self._rest[HEADER.size + length :]
        return Record(stream, unix_ns, data)

    def _follow_rotation(self) -> None:
        try:
            newest = os.stat(self.path)
        except FileNotFoundError:
            return
        if not self._queue or os.fstat(self._queue[-1]).st_ino != newest.st_ino:
            self._queue.append(self._opened(self.path))

    def close(self) -> None:
        """Close the files."""
        while self._queue:
            os.close(self._queue.popleft())


def lines(records: Iterator[Record], timestamps: bool) -> Iterator[bytes]:
    """The output by line, each stream's own; without timestamps the bytes exactly as they came."""
    if not timestamps:
        for record in records:
            yield record.data
        return
    open_line = {STDOUT: False, STDERR: False}
    for record in records:
        stamp = _rfc3339(record.unix_ns)
        for line in record.data.splitlines(keepends=True):
            yield line if open_line.get(record.stream) else stamp + line
            open_line[record.stream] = not line.endswith(b"\n")


def since(records: Iterator[Record], unix_s: float) -> Iterator[Record]:
    """The records of that moment and later."""
    return (record for record in records if record.unix_ns >= unix_s * 1e9)


def tail(records: Iterator[Record], count: int) -> list[Record]:
    """The records that hold the last `count` lines, the first one cut to fit."""
    last: deque[list[Record]] = deque(maxlen=max(count, 0) or 1)  # a line may come in many pieces
    for record in records:
        for line in record.data.splitlines(keepends=True):
            if last and last[-1][-1].stream == record.stream and not last[-1][-1].data.endswith(b"\n"):
                last[-1].append(record._replace(data=line))
            else:
                last.append([record._replace(data=line)])
    lines = [pieces[0]._replace(data=b"".join(one.data for one in pieces)) for pieces in last]
    return lines if count > 0 else []


def _rfc3339(unix_ns: int) -> bytes:
    seconds, rest = divmod(unix_ns, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)).encode() + b".%09dZ " % rest
