"""The log that a command-mode machine leaves: records of output, each with its stream and time."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

_HEAD = struct.Struct("<BQI")
_LARGEST_BYTES = 1 << 20


class Record(NamedTuple):
    """Some bytes of output: stream 1 or 2, the guest's CLOCK_REALTIME in ns."""

    stream: int
    unix_ns: int
    data: bytes


def encode(stream: int, unix_ns: int, data: bytes) -> bytes:
    """One record as the guest helper writes it, and the host where it runs in the foreground."""
    return _HEAD.pack(stream, unix_ns, len(data)) + data


def decode(data: bytes) -> tuple[list[Record], bytes]:
    """The whole records at the start of `data`, and the rest; bytes that are no record are shown as
    output."""
    records, at = [], 0
    while len(data) - at >= _HEAD.size:
        stream, unix_ns, length = _HEAD.unpack_from(data, at)
        if stream not in (1, 2) or length > _LARGEST_BYTES:
            records.append(Record(1, 0, data[at:]))
            return records, b""
        if len(data) - at - _HEAD.size < length:
            break
        at += _HEAD.size
        records.append(Record(stream, unix_ns, data[at : at + length]))
        at += length
    return records, data[at:]


def lines(records: list[Record], timestamps: bool) -> Iterator[bytes]:
    """The output of records, by lines with the time of their record where asked."""
    for record in records:
        if not timestamps:
            yield record.data
            continue
        stamp = datetime.fromtimestamp(record.unix_ns / 1e9, UTC).isoformat(timespec="microseconds")
        for line in record.data.splitlines(keepends=True):
            yield stamp.replace("+00:00", "Z").encode() + b" " + line


def show(
    path: Path, out_fd: int, tail: int | None, timestamps: bool, more: Callable[[], bool] | None
) -> None:
    """Write a log of records to `out_fd`: its last `tail` lines, then what comes while `more()` is true."""
    rest = b""
    with path.open("rb") as file:
        records, rest = decode(file.read())
        _write(out_fd, b"".join(_last(list(lines(records, timestamps)), tail)))
        while more is not None:
            going = more()
            records, rest = decode(rest + file.read())
            _write(out_fd, b"".join(lines(records, timestamps)))
            if not going:
                return
            time.sleep(0.1)


def show_text(path: Path, out_fd: int, tail: int | None, more: Callable[[], bool] | None) -> None:
    """The same for a log of plain bytes, such as a serial console's."""
    with path.open("rb") as file:
        _write(out_fd, b"".join(_last([file.read()], tail)))
        while more is not None:
            going = more()
            _write(out_fd, file.read())
            if not going:
                return
            time.sleep(0.1)


def _last(pieces: list[bytes], count: int | None) -> list[bytes]:
    if count is None:
        return pieces
    return b"".join(pieces).splitlines(keepends=True)[-count:] if count else []


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
