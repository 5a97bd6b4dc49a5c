"""The frames between the host and the guest helper, as bytes: guest/PROTOCOL.md says what each means."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

VERSION = 1
MAGIC = b"vmG\x01"
MAX_PAYLOAD_BYTES = 256 << 10
WINDOW_BYTES = 64 << 10

HELLO, EXEC, STDIN, RESIZE, SIGNAL, HOSTNAME, TIME, RESEED, NETWORK = range(1, 10)
PUT, PIDFILE, SYNC, POWEROFF, WARM, POISE = range(10, 16)
WELCOME, STARTED, STDOUT, STDERR, CREDIT, EXIT, DONE = range(0x81, 0x88)

TTY, WITH_STDIN, LOG, END, MAKE_CWD = 1, 2, 4, 8, 16

_HEADER = struct.Struct("<4sBBHII")


class Frame(NamedTuple):
    """One frame: its type, the id of the command or request that it belongs to, and the payload."""

    type: int
    id: int
    payload: bytes


def check_of(type_: int, id_: int, length: int) -> int:
    """The header's check: it tells a header from bytes that happen to begin with the magic."""
    return (type_ * 257 ^ id_ ^ id_ >> 16 ^ length ^ length >> 16 ^ 0x5AA5) & 0xFFFF


def encode(type_: int, id_: int, payload: bytes = b"") -> bytes:
    """A frame as it goes over the wire."""
    length = len(payload)
    return _HEADER.pack(MAGIC, type_, 0, check_of(type_, id_, length), id_, length) + payload


class Decoder:
    """Frames out of a stream of bytes; what is no frame is skipped, up to the next right header."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self.skipped_bytes = 0

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that these bytes complete."""
        self._pending += data
        frames = []
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    def _next(self) -> Frame | None:
        while True:
            self._skip(self._pending.find(MAGIC))
            if len(self._pending) < _HEADER.size:
                return None
            _, type_, _, check, id_, length = _HEADER.unpack_from(self._pending)
            if check == check_of(type_, id_, length) and length <= MAX_PAYLOAD_BYTES:
                return self._take(type_, id_, length)
            self._skip(1)

    def _skip(self, count: int) -> None:
        if count < 0:  # no magic: only its first bytes, at the very end, may still become one
            count = max(0, len(self._pending) - len(MAGIC) + 1)
        self.skipped_bytes += count
        del self._pending[:count]

    def _take(self, type_: int, id_: int, length: int) -> Frame | None:
        end = _HEADER.size + length
        if len(self._pending) < end:
            return None
        payload = bytes(self._pending[_HEADER.size : end])
        del self._pending[:end]
        return Frame(type_, id_, payload)


def fnv1a(data: bytes) -> int:
    """The 32-bit FNV-1a hash, which guards the request for a command: half of one must never run."""
    value = 2166136261
    for byte in data:
        value = (value ^ byte) * 16777619 & 0xFFFFFFFF
    return value


def exec_payload(
    argv: Sequence[str], env: Sequence[str], cwd: str, user: str, flags: int, rows: int = 0, cols: int = 0
) -> bytes:
    """The payload of EXEC."""
    counts = struct.pack("<5H", flags, rows, cols, len(argv), len(env))
    words = b"".join(word.encode("utf-8", "surrogateescape") + b"\0" for word in (user, cwd, *argv, *env))
    return struct.pack("<I", fnv1a(counts + words)) + counts + words


class Hello(NamedTuple):
    """What the helper says of itself and its clocks; `received_ns` is the host's CLOCK_MONOTONIC then."""

    version: int
    system_mode: bool
    began_boottime_ns: int
    boottime_ns: int
    monotonic_ns: int
    realtime_ns: int
    received_ns: int

    @property
    def kernel_entry_ns(self) -> int:
        """When the guest's kernel began, on the host's CLOCK_MONOTONIC: derived, late by one frame's way."""
        return self.received_ns - self.boottime_ns

    def host_ns(self, boottime_ns: int) -> int:
        """A stamp of the guest's CLOCK_BOOTTIME on the host's CLOCK_MONOTONIC."""
        return self.kernel_entry_ns + boottime_ns


def read_welcome(payload: bytes, received_ns: int) -> tuple[int, Hello]:
    """The nonce that WELCOME returns, and the Hello."""
    nonce, version, mode, began, boottime, monotonic, realtime = struct.unpack("<QIIQQQQ", payload)
    return nonce, Hello(version, bool(mode), began, boottime, monotonic, realtime, received_ns)
