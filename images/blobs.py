"""Content by its digest: `blobs/sha256/HEX` of an OCI image layout.

What is under a digest has that digest.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from host.errors import BadData, NotFound
from host.typing import TYPE_CHECKING, Any, BinaryIO
from images.reference import is_digest

if TYPE_CHECKING:
    import hashlib

# The distribution-spec asks clients to take manifests of at least 4 MiB; nobody has larger ones.
MAX_DOCUMENT_BYTES = 4 << 20
_CHUNK_BYTES = 1 << 20


def new_sha256(data: bytes = b"") -> hashlib._Hash:
    """A digest to feed; hashlib loads OpenSSL (3 ms), which only commands that make or check content need."""
    import hashlib

    return hashlib.sha256(data)


def sha256(data: bytes) -> str:
    """The digest of bytes, as `sha256:HEX`; by the interpreter's own code, which hashlib falls back to."""
    try:
        from _sha256 import sha256 as made  # type: ignore[import-not-found] # its name up to CPython 3.11
    except ImportError:
        try:
            from _sha2 import sha256 as made  # type: ignore[import-not-found]
        except ImportError:
            made = new_sha256
    return f"sha256:{made(data).hexdigest()}"


def encode(document: object) -> bytes:
    """JSON bytes that are always the same for the same document."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


class Writing:
    """A blob being written: counts and digests what passes through."""

    def __init__(self, fd: int) -> None:
        self._fd, self._hash, self.size = fd, new_sha256(), 0

    def write(self, data: bytes | memoryview) -> int:
        """Append bytes."""
        self._hash.update(data)
        self.size += len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        return len(data)

    @property
    def digest(self) -> str:
        """The digest of what was written so far."""
        return f"sha256:{self._hash.hexdigest()}"


class Blobs:
    """The blobs under a directory.

    `staging` lies on the same file system, so that a blob appears whole or not.
    """

    def __init__(self, directory: Path, staging: Path) -> None:
        self.directory, self.staging = directory, staging

    def path(self, digest: str) -> Path:
        """Where the blob of this digest lies, whether it is there or not; BadData for what is no digest."""
        if not is_digest(digest):
            raise BadData("cannot use the digest", repr(digest), "not sha256: and 64 hex digits")
        return self.directory / "sha256" / digest.removeprefix("sha256:")

    def has(self, digest: str, size: int | None = None) -> bool:
        """Whether the blob is here (and has `size` bytes)."""
        try:
            status = self.path(digest).stat()
        except FileNotFoundError:
            return False
        return size is None or status.st_size == size

    def open(self, digest: str) -> BinaryIO:
        """The blob for reading; NotFound when it is not here. Its content is not checked: see `verify`."""
        try:
            return self.path(digest).open("rb")
        except FileNotFoundError:
            raise NotFound(
                "cannot find the blob", digest, "it is not in the store", "vmm image verify"
            ) from None

    def document(self, digest: str) -> dict[str, Any]:
        """The JSON object in a blob, its digest verified; BadData when it is not what it claims to be."""
        with self.open(digest) as file:
            if os.fstat(file.fileno()).st_size > MAX_DOCUMENT_BYTES:
                raise BadData("cannot read the document", digest, "it is larger than 4 MiB")
            data = file.read()
        if sha256(data) != digest:
            raise BadData(
                "cannot read the blob", digest, "its content has another digest", "vmm image verify"
            )
        return parse(data, digest)

    def put(self, data: bytes) -> str:
        """Store bytes, and return their digest."""
        digest = sha256(data)
        if not self.has(digest, len(data)):
            with self.writing() as blob:
                blob.write(data)
        return digest

    @contextlib.contextmanager
    def writing(self, expected: str = "") -> Iterator[Writing]:
        """Write a blob of yet unknown digest; it appears under its digest at the end, durable, or not at all.

        BadData when it is not the `expected` digest.
        """
        temp = self.staging / f"blob-{os.getpid()}-{os.urandom(6).hex()}"
        fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            blob = Writing(fd)
            yield blob
            if expected and blob.digest != expected:
                raise BadData("cannot store the blob", expected, f"the bytes have the digest {blob.digest}")
            os.fsync(fd)
            target = self.path(blob.digest)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(temp, target)
        finally:
            os.close(fd)
            temp.unlink(missing_ok=True)

    def verify(self, digest: str) -> bool:
        """Read the whole blob: whether its content has its digest."""
        seen = new_sha256()
        with self.open(digest) as file:
            while chunk := file.read(_CHUNK_BYTES):
                seen.update(chunk)
        return f"sha256:{seen.hexdigest()}" == digest

    def digests(self) -> set[str]:
        """The digests of all blobs that are here."""
        try:
            names = os.listdir(self.directory / "sha256")
        except FileNotFoundError:
            return set()
        return {f"sha256:{name}" for name in names if is_digest(f"sha256:{name}")}

    def remove(self, digest: str) -> int:
        """Remove a blob, and return the bytes that it held."""
        path = self.path(digest)
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            return 0
        return size


def parse(data: bytes, name: str) -> dict[str, Any]:
    """The JSON object in bytes; BadData when there is none."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadData("cannot read the document", name, f"not JSON: {error}") from None
    if not isinstance(document, dict):
        raise BadData("cannot read the document", name, "not a JSON object")
    return document
