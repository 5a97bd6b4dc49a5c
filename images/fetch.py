"""Download one file over HTTP: with progress, resumed after a cut, and nothing kept that is not whole."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from host.errors import BadData, DeadlinePassed, Failure

if TYPE_CHECKING:
    import urllib3

Progress = Callable[[int, int | None], None]
_CHUNK_BYTES = 1 << 18
_TRIES = 5
PAUSE_S = 0.2
_TIMEOUT_S = 30.0


def pool(**options: Any) -> urllib3.PoolManager:
    """A pool that verifies certificates by the system's authorities and waits 30 s for each answer."""
    import urllib3

    timeout = urllib3.Timeout(connect=10, read=_TIMEOUT_S)
    return urllib3.PoolManager(timeout=timeout, retries=False, cert_reqs="CERT_REQUIRED", **options)


def fetch(
    url: str,
    path: Path,
    progress: Progress = lambda _done, _all: None,
    most_bytes: int = 1 << 40,
    tries: int = _TRIES,
) -> Path:
    """Download to `path`, going on where a former try ended, if the server still has the same file.

    The file is whole when this returns. Failure for a status of the server, BadData for more than
    `most_bytes`, DeadlinePassed when every try was cut or stalled.
    """
    import urllib3

    last: Exception | None = None
    with pool() as connections:
        for turn in range(tries):
            if turn:
                time.sleep(min(PAUSE_S * 2**turn, 5))
            try:
                if _go_on(connections, url, path, progress, most_bytes):
                    _version(path).unlink(missing_ok=True)
                    return path
                last = None
            except (urllib3.exceptions.HTTPError, OSError) as error:
                if isinstance(error, OSError) and error.errno:
                    raise
                last = error
    why = f"{tries} tries ended early" + (f": {last}" if last else "")
    raise DeadlinePassed("cannot download", url, why, "try again: what is here already is kept")


def forget(path: Path) -> None:
    """Remove what came of a file, whole or not."""
    path.unlink(missing_ok=True)
    _version(path).unlink(missing_ok=True)


def _go_on(
    connections: urllib3.PoolManager, url: str, path: Path, progress: Progress, most_bytes: int
) -> bool:
    """One try from where the file ends; whether it is whole now."""
    have = path.stat().st_size if path.exists() else 0
    headers = {"Accept-Encoding": "identity", **(_range(path, have) if have else {})}
    answer = connections.request("GET", url, headers=headers, preload_content=False, redirect=True, retries=3)
    try:
        start = _start(answer, url, path, have)
        if start is None:
            return answer.status == 416 and path.exists()
        total = _total(answer, start)
        with path.open("r+b" if path.exists() else "wb") as file:
            file.seek(start)
            file.truncate()
            done = start
            for chunk in answer.stream(_CHUNK_BYTES, decode_content=False):
                file.write(chunk)
                done += len(chunk)
                if done > most_bytes:
                    raise BadData("cannot download", url, f"it is larger than {most_bytes} bytes")
                progress(done, total)
        return total is None or done == total
    finally:
        answer.close()  # what is left of the body is in the way of another request
        answer.release_conn()


def _start(answer: Any, url: str, path: Path, have: int) -> int | None:
    """Where in the file the answer's body belongs, or None where it has none for us.

    What is here of another file than the server has now is removed.
    """
    if answer.status in (429, 500, 502, 503, 504):
        return None
    told = str(answer.headers.get("Content-Range", ""))
    if answer.status == 416 and have:  # nothing comes after what is here
        if not told.endswith(f"*/{have}"):
            path.unlink()
        return None
    if answer.status not in (200, 206):
        raise Failure("cannot download", url, f"the server answered {answer.status} {answer.reason}")
    start = have if answer.status == 206 else 0
    if start and not told.startswith(f"bytes {start}-"):
        path.unlink()
        return None
    _remember(path, answer)
    return start


def _range(path: Path, have: int) -> dict[str, str]:
    """Ask for the rest, and for all of it where the file is another by now (RFC 9110, 13.1.5 If-Range)."""
    asked, known = {"Range": f"bytes={have}-"}, _version(path)
    return {**asked, "If-Range": known.read_text()} if known.exists() else asked


def _version(path: Path) -> Path:
    """Where it is kept which version of the file the beginning is of."""
    return path.with_name(f"{path.name}.version")


def _remember(path: Path, answer: Any) -> None:
    tag = answer.headers.get("ETag", "")
    told = answer.headers.get("Last-Modified", "") if not tag or tag.startswith("W/") else tag
    _version(path).write_text(told) if told else _version(path).unlink(missing_ok=True)


def _total(answer: Any, start: int) -> int | None:
    length = answer.headers.get("Content-Length")
    return start + int(length) if length and length.isdigit() else None


def told(say: Callable[[str], None], every_s: float = 1.0) -> Progress:
    """A progress callback that says a line a second: bytes, share, speed, time left."""
    from host.sizes import format_bytes

    began = last = time.monotonic()
    first = -1

    def progress(done: int, total: int | None) -> None:
        nonlocal last, first
        first = done if first < 0 else first
        now = time.monotonic()
        if now - last < every_s and done != total:
            return
        last = now
        speed = (done - first) / max(now - began, 0.001)
        share = f" of {format_bytes(total)}" if total else ""
        left = f", {(total - done) / speed:.0f} s left" if total and speed and done < total else ""
        say(f"{format_bytes(done)}{share}, {format_bytes(speed)}/s{left}")

    return progress


def text(url: str, most_bytes: int = 1 << 20) -> str:
    """A small text at an address; Failure or DeadlinePassed as `fetch`."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return fetch(url, Path(folder, "text"), most_bytes=most_bytes).read_text(errors="replace")
