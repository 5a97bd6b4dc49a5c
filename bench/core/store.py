"""A campaign's folder: results.jsonl, appended as samples are taken, and campaign.json with all the rest."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from bench.core.sample import FILE_NAME, Sample
from host import records
from host.errors import InUse, from_os_error

CAMPAIGN = "campaign.json"
EARLIER = "earlier"
# Every sample is written at once, so kill -9 loses none: the page cache has it. Samples of a millisecond
# would wait longer for the disk than they took: what a power cut can lose of those is bounded by this.
SYNC_EVERY_S = 1.0


class Sink(Protocol):
    """Where a campaign puts its samples, and what it has to say of itself."""

    def append(self, sample: Sample) -> None: ...
    def describe(self, campaign: Mapping[str, Any]) -> None: ...


class Store:
    """The open results file of a campaign, held by flock, so that two campaigns never share a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.dropped_bytes = 0
        self._synced_s = 0.0
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(folder / FILE_NAME, flags, 0o644)
        try:
            self._hold()
            self._drop_cut_line()
        except BaseException:
            os.close(self._fd)
            raise

    def _hold(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            why = "another vmm bench writes there now"
            raise InUse("cannot write results", str(self.folder), why, "choose another --out") from None

    def _drop_cut_line(self) -> None:
        """End the file after its last whole line: what a power cut or a full disk left is no record."""
        size = os.fstat(self._fd).st_size
        tail = os.pread(self._fd, min(size, 1 << 20), max(size - (1 << 20), 0))
        self.dropped_bytes = len(tail) - (tail.rfind(b"\n") + 1)
        if self.dropped_bytes:
            os.ftruncate(self._fd, size - self.dropped_bytes)

    def append(self, sample: Sample) -> None:
        """Write one sample, and sync it (SYNC_EVERY_S); on a full disk a Failure, the file as it was."""
        line = sample.to_json().encode() + b"\n"
        before = os.fstat(self._fd).st_size
        try:
            written = os.write(self._fd, line)
            if written != len(line):
                raise OSError(28, "No space left on device")
            self.sync(only_after_s=SYNC_EVERY_S)
        except OSError as error:
            os.ftruncate(self._fd, before)
            hint = "free space, then `vmm bench resume` goes on"
            raise from_os_error("cannot write a sample", error, str(self.folder / FILE_NAME), hint) from None

    def sync(self, only_after_s: float = 0.0) -> None:
        """Let the disk have everything, unless it has had it within `only_after_s` seconds."""
        now_s = time.monotonic()
        if now_s - self._synced_s >= only_after_s:
            os.fsync(self._fd)
            self._synced_s = time.monotonic()

    def describe(self, campaign: Mapping[str, Any]) -> None:
        """Write campaign.json as a whole: plan, facts, command line, how it ended."""
        records.write(self.folder / CAMPAIGN, dict(campaign))

    def close(self) -> None:
        """Sync and let go of the folder."""
        with contextlib.suppress(OSError):
            os.fsync(self._fd)
        os.close(self._fd)

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def described(folder: Path) -> dict[str, Any]:
    """campaign.json of a folder; empty where there is none."""
    try:
        return records.read(folder / CAMPAIGN)
    except FileNotFoundError:
        return {}


def set_aside(folder: Path) -> Path | None:
    """Move an earlier campaign's files into earlier/ID, so that a new one may use the folder.

    Returns where they are now, None where there were none. Raises InUse while another campaign writes there.
    """
    results = folder / FILE_NAME
    if not results.exists():
        return None
    Store(folder).close()  # proves that nobody holds it
    name = described(folder).get("campaign") or f"unnamed-{int(results.stat().st_mtime)}"
    aside = folder / EARLIER / str(name)
    aside.mkdir(parents=True, exist_ok=True)
    for path in _files(folder):
        os.replace(path, aside / path.name)
    return aside


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_file():
            yield path
