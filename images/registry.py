"""What a registry is asked, by the OCI distribution-spec v1.1: manifests, blobs, uploads, the catalog.

Nothing that a registry says is believed: sizes, digests and media types are checked by whoever stores the
bytes.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any, BinaryIO
from urllib.parse import urlencode, urljoin

from host.errors import BadData, DeadlinePassed
from images.blobs import MAX_DOCUMENT_BYTES, sha256
from images.store import DOCKER_INDEX, DOCKER_MANIFEST, INDEX, MANIFEST
from images.transport import TRIES, Access, Transport, network_words

_ACCEPTED = ", ".join((INDEX, MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST))
_CHUNK_BYTES = 1 << 18


class Registry:
    """The registry at `HOST[:PORT]`."""

    def __init__(
        self, host: str, access: Access | None = None, pause: Callable[[float], None] = time.sleep
    ) -> None:
        self.host, self._http = host, Transport(host, access, pause)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def ping(self) -> None:
        """Check that there is a registry and that it takes our credentials."""
        self._http.request("GET", "/v2/").drain_conn()

    def manifest(self, repository: str, word: str) -> tuple[bytes, str]:
        """The manifest or index of a tag or digest, and its media type; BadData for another digest."""
        answer = self._http.request("GET", f"/v2/{repository}/manifests/{word}", {"Accept": _ACCEPTED})
        data = answer.read(MAX_DOCUMENT_BYTES + 1)
        answer.release_conn()
        if len(data) > MAX_DOCUMENT_BYTES:
            raise BadData("refused the manifest", f"{repository}:{word}", "it is larger than 4 MiB")
        wanted = word if word.startswith("sha256:") else answer.headers.get("Docker-Content-Digest", "")
        if wanted.startswith("sha256:") and sha256(data) != wanted:
            raise BadData(
                "refused the manifest", f"{repository}:{word}", f"its digest is {sha256(data)}, not {wanted}"
            )
        return data, str(answer.headers.get("Content-Type", "")).partition(";")[0]

    def blob(self, repository: str, digest: str, start: int) -> tuple[int, Generator[bytes, None, None]]:
        """The bytes of a blob from `start` on, or from 0 where the registry cannot; first, where it began."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        path = f"/v2/{repository}/blobs/{digest}"
        answer = self._http.request("GET", path, headers, expect=(200, 206, 416), tries=1)
        if answer.status == 416:
            answer.drain_conn()
            return start, _nothing()
        return (start if answer.status == 206 else 0), _stream(answer)

    def has_blob(self, repository: str, digest: str) -> bool:
        """Whether the registry has a blob in a repository."""
        answer = self._http.request("HEAD", f"/v2/{repository}/blobs/{digest}", expect=(200, 404))
        answer.drain_conn()
        return bool(answer.status == 200)

    def upload(
        self, repository: str, digest: str, size: int, source: BinaryIO, sent: Callable[[int], None]
    ) -> None:
        """Upload a blob, going on after a cut where the registry says that it stands."""
        import urllib3

        start = self._http.request("POST", f"/v2/{repository}/blobs/uploads/", expect=(202,), body=b"")
        location = self._location(start)
        why = ""
        for turn in range(TRIES):
            if turn:
                self._http.pause(turn)
            try:
                offset, location = (0, location) if not turn else self._offset(location)
                location = self._patch(location, source, offset, size, sent)
                mark = "&" if "?" in location else "?"
                path = f"{location}{mark}{urlencode({'digest': digest})}"
                self._http.request("PUT", path, {"Content-Length": "0"}, b"", expect=(201, 204)).drain_conn()
                return
            except (urllib3.exceptions.HTTPError, ConnectionError, TimeoutError) as error:
                why = network_words(error)
        raise DeadlinePassed("cannot upload", digest, f"{TRIES} tries failed; {why}")

    def _patch(
        self, location: str, source: BinaryIO, offset: int, size: int, sent: Callable[[int], None]
    ) -> str:
        if offset >= size:
            return location
        source.seek(offset)
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(size - offset),
            "Content-Range": f"{offset}-{size - 1}",
        }
        answer = self._http.request("PATCH", location, headers, _body(source, sent), expect=(202,), tries=1)
        return self._location(answer)

    def _offset(self, location: str) -> tuple[int, str]:
        answer = self._http.request("GET", location, expect=(204,))
        last = re.fullmatch(r"(?:bytes=)?0-(\d+)", answer.headers.get("Range", ""))
        number = int(last[1]) if last else -1
        return (number + 1 if number > 0 else 0), self._location(answer) or location

    def _location(self, answer: Any) -> str:
        answer.drain_conn()
        location = answer.headers.get("Location", "")
        if not location:
            return ""
        return self._http.absolute(location)

    def put_manifest(self, repository: str, word: str, data: bytes, media_type: str) -> None:
        """Enter a manifest under a tag or its digest."""
        headers = {"Content-Type": media_type}
        self._http.request(
            "PUT", f"/v2/{repository}/manifests/{word}", headers, data, expect=(201, 202)
        ).drain_conn()

    def repositories(self) -> list[str]:
        """All repositories of the catalog, sorted."""
        return sorted(self._paged("/v2/_catalog?n=500", "repositories"))

    def tags(self, repository: str) -> list[str]:
        """All tags of a repository, sorted."""
        return sorted(self._paged(f"/v2/{repository}/tags/list", "tags"))

    def _paged(self, path: str, key: str) -> Iterator[str]:
        for _ in range(10_000):
            answer = self._http.request("GET", path)
            try:
                document = json.loads(answer.read(MAX_DOCUMENT_BYTES))
                yield from (str(name) for name in document.get(key) or [])
            except (ValueError, AttributeError):
                raise BadData("cannot read the list of", self.host, "it is no JSON object") from None
            following = re.match(r'<([^>]+)>;\s*rel="?next', answer.headers.get("Link", ""))
            if not following:
                return
            path = self._http.absolute(urljoin(path, following[1]))


def _body(source: BinaryIO, sent: Callable[[int], None]) -> Iterator[bytes]:
    while chunk := source.read(_CHUNK_BYTES):
        yield chunk
        sent(len(chunk))


def _nothing() -> Generator[bytes, None, None]:
    yield from ()


def _stream(answer: Any) -> Generator[bytes, None, None]:
    try:
        yield from answer.stream(_CHUNK_BYTES, decode_content=False)
    except BaseException:
        answer.close()  # the rest of the body is in the way of the next request
        raise
    finally:
        answer.release_conn()
