"""The plain bytes of what came packed: gzip and zstd, as OCI layers may be, told by the content alone."""

from __future__ import annotations

from typing import BinaryIO

from host.errors import Unsupported


def decompressed(stream: object) -> BinaryIO:
    """The plain bytes of a stream; the compression is told by the content, never by a name or media type."""
    head = _Peeked(stream)
    start = head.peek(6)
    if start[:2] == b"\x1f\x8b":
        import gzip

        return gzip.GzipFile(fileobj=head, mode="rb")  # type: ignore[call-overload,no-any-return]
    if start[:4] == b"\x28\xb5\x2f\xfd":
        return _Zstd(head)  # type: ignore[return-value]
    if start[:3] == b"BZh" or start == b"\xfd7zXZ\x00":
        raise Unsupported(
            "cannot unpack the layer", why="compressed by bzip2 or xz, which OCI layers are not"
        )
    return head  # type: ignore[return-value]


class _Zstd:
    """The plain bytes of zstd frames; the library bounds the window that one may ask for, at 128 MiB."""

    def __init__(self, stream: object) -> None:
        import zstandard

        self._reader = zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True)  # type: ignore[arg-type]
        self._errors = zstandard.ZstdError

    def read(self, size: int = -1) -> bytes:
        try:
            return self._reader.read(size)
        except self._errors as error:
            raise OSError(str(error)) from None


class _Peeked:
    """A stream whose first bytes can be looked at."""

    def __init__(self, stream: object) -> None:
        self._stream, self._head = stream, b""

    def peek(self, size: int) -> bytes:
        while len(self._head) < size:
            more = self._stream.read(size - len(self._head))  # type: ignore[attr-defined]
            if not more:
                break
            self._head += more
        return self._head[:size]

    def read(self, size: int = -1) -> bytes:
        if not self._head:
            return self._stream.read(size)  # type: ignore[attr-defined,no-any-return]
        take = len(self._head) if size < 0 else min(size, len(self._head))
        data, self._head = self._head[:take], self._head[take:]
        if size < 0 or len(data) < size:
            data += self._stream.read(size - len(data) if size >= 0 else -1)  # type: ignore[attr-defined]
        return data
