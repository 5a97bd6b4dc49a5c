"""Fetch an image from a registry: only the blobs that are not here, several at once, resumed after a cut."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from host import records
from host.errors import BadData, DeadlinePassed, Failure, from_os_error
from host.sizes import format_bytes
from images import disks, platforms, reference
from images.blobs import Blobs, parse, sha256
from images.registry import Registry
from images.store import MANIFEST, Image, Store, checked_manifest
from images.transport import TRIES, Access

_AT_ONCE = 4
PAUSE_S = 0.25
Say = Callable[[str], None]


@dataclass(slots=True)
class Moved:
    """What a transfer moved and what was there already, in bytes; threads add to it."""

    moved_bytes: int = 0
    here_bytes: int = 0
    total_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, moved: int = 0, here: int = 0) -> None:
        """Count bytes."""
        with self._lock:
            self.moved_bytes += moved
            self.here_bytes += here

    def __str__(self) -> str:
        return f"{self.moved_bytes} bytes moved, {self.here_bytes} bytes already here"


def pull(
    store: Store,
    name: str,
    said: Say = lambda _line: None,
    access: Access | None = None,
    architecture: str = "",
    moved: Moved | None = None,
) -> Image:
    """Fetch the image of this name, `HOST[:PORT]/NAME[:TAG][@DIGEST]`, and store it under it.

    Of an index, the manifest for the architecture (this host's). A cut connection goes on where it was, in
    this command or the next. BadData where the registry sends something else than it announced.
    """
    wanted = reference.parse(name)
    registry = Registry(wanted.host, access)
    moved = moved if moved is not None else Moved()
    try:
        with contextlib.closing(registry), store.using():
            data, digest = _manifest(registry, wanted, architecture)
            manifest = checked_manifest(parse(data, name), digest)
            blobs = _distinct([manifest["config"], *manifest["layers"]])
            moved.total_bytes = sum(told["size"] for told in blobs)
            fetch_all(store, registry, wanted.path, blobs, moved, said)
            disks.check_parts(store, manifest)
            store.blobs.put(data)
            moved.add(moved=len(data))
            image = store.enter(digest, len(data), wanted.tagged if wanted.tag else "")
            if not image.disk:
                said("unpacking")
                store.layers.ensure(store.blobs, store.stack(digest))
    except OSError as error:
        raise from_os_error("cannot pull", error, name) from error
    said(str(moved))
    return image


def _manifest(registry: Registry, wanted: reference.Reference, architecture: str) -> tuple[bytes, str]:
    """The manifest's bytes and digest; of an index, the one for the architecture."""
    data, media_type = registry.manifest(wanted.path, wanted.digest or wanted.tag)
    document = parse(data, str(wanted))
    if platforms.is_index(document, media_type):
        chosen = platforms.choose(document, str(wanted), architecture)
        data, media_type = registry.manifest(wanted.path, chosen["digest"])
        document = parse(data, str(wanted))
    told = document.get("mediaType")
    if told and media_type.startswith("application/vnd.") and told != media_type:
        raise BadData("refused the manifest", str(wanted), f"it says {told}, the registry says {media_type}")
    return data, sha256(data)


def _distinct(descriptors: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return list({told["digest"]: told for told in descriptors}.values())


def fetch_all(
    store: Store,
    registry: Registry,
    repository: str,
    blobs: Sequence[Mapping[str, Any]],
    moved: Moved,
    said: Say,
) -> None:
    """Fetch the blobs that are not here, several at once; the first failure ends all."""
    missing = []
    for told in blobs:
        if store.blobs.has(told["digest"], told["size"]):
            moved.add(here=told["size"])
        else:
            missing.append(told)
    progress = _Progress(moved, said)
    stop = threading.Event()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        tasks = [pool.submit(_fetch, store, registry, repository, told, progress, stop) for told in missing]
        try:
            for task in tasks:
                task.result()
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


class _Progress:
    """Says a line a second of how far a transfer is."""

    def __init__(self, moved: Moved, said: Say) -> None:
        self.moved, self._said = moved, said
        self._began = self._last = time.monotonic()

    def add(self, count: int) -> None:
        self.moved.add(moved=count)
        now = time.monotonic()
        if now - self._last < 1:
            return
        self._last = now
        done, total = self.moved.moved_bytes + self.moved.here_bytes, self.moved.total_bytes
        speed = self.moved.moved_bytes / (now - self._began)
        left = f", {max(0, total - done) / speed:.0f} s left" if speed else ""
        self._said(f"{format_bytes(done)} of {format_bytes(total)}, {format_bytes(speed)}/s{left}")


def _fetch(
    store: Store,
    registry: Registry,
    repository: str,
    told: Mapping[str, Any],
    progress: _Progress,
    stop: threading.Event,
) -> None:
    """Fetch one blob into `downloads`, then move it whole and verified among the blobs."""
    folder = store.root / "downloads"
    folder.mkdir(exist_ok=True)
    half = folder / told["digest"].removeprefix("sha256:")
    with records.lock(half.with_suffix(".lock"), wait_s=1800):
        if not store.blobs.has(told["digest"], told["size"]):
            why = ""
            for turn in range(TRIES):
                if turn:
                    stop.wait(min(PAUSE_S * 2**turn, 8))
                if stop.is_set():
                    return
                try:
                    why = _go_on(registry, repository, told, half, progress, stop)
                except OSError:
                    half.unlink(missing_ok=True)  # most likely the disk is full: give back what this took
                    raise
                if not why:
                    break
            if why:
                hint = "pull again: it goes on from there"
                raise DeadlinePassed("cannot fetch", told["digest"], f"{TRIES} tries failed; {why}", hint)
            _keep(store.blobs, half, told)
    half.with_suffix(".lock").unlink(missing_ok=True)


def _go_on(
    registry: Registry,
    repository: str,
    told: Mapping[str, Any],
    half: Path,
    progress: _Progress,
    stop: threading.Event,
) -> str:
    """One try from where the file ends; empty when all bytes are here, else why not."""
    import urllib3

    size = told["size"]
    have = half.stat().st_size if half.exists() else 0
    if have > size:
        half.unlink()
        have = 0
    if have == size and size:
        return ""
    try:
        start, chunks = registry.blob(repository, told["digest"], have)
        with contextlib.closing(chunks), half.open("r+b" if half.exists() else "wb") as file:
            file.seek(start)
            file.truncate()
            for chunk in chunks:
                file.write(chunk)
                progress.add(len(chunk))
                if file.tell() > size:
                    half.unlink()
                    raise BadData(
                        "refused the blob", told["digest"], f"the registry sends more than {size} bytes"
                    )
                if stop.is_set():
                    return "stopped"
    except DeadlinePassed as error:
        return error.why
    except (urllib3.exceptions.HTTPError, ConnectionError, TimeoutError) as error:
        return str(error) or type(error).__name__
    have = half.stat().st_size
    return "" if have == size else f"{have} of {size} bytes came"


def _keep(blobs: Blobs, half: Path, told: Mapping[str, Any]) -> None:
    """Verify the digest, and let the blob appear among the others by a rename."""
    import hashlib

    with half.open("rb") as file:
        found = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        if found != told["digest"]:
            half.unlink()
            why = f"the registry sent {found}"
            raise BadData(
                "refused the blob", told["digest"], why, "the registry, or a proxy before it, is damaged"
            )
        os.fsync(file.fileno())
    os.rename(half, blobs.path(told["digest"]))


# the other way


def push(
    store: Store,
    name: str,
    target: str = "",
    said: Say = lambda _line: None,
    access: Access | None = None,
    moved: Moved | None = None,
) -> Moved:
    """Bring an image to the registry that its name (or `target`) says: what it lacks, then the manifest."""
    image, wanted = store.resolve(name), reference.parse(target or name)
    registry = Registry(wanted.host, access)
    moved = moved if moved is not None else Moved()
    entry, manifest = store.descriptor(image.digest), store.manifest(image.digest)
    blobs = _distinct([manifest["config"], *manifest["layers"]])
    moved.total_bytes = sum(told["size"] for told in blobs)
    progress, stop = _Progress(moved, said), threading.Event()
    registry.ping()  # before the threads: it settles how the registry is spoken to
    with contextlib.closing(registry), ThreadPoolExecutor(_AT_ONCE) as pool:
        for task in [
            pool.submit(_send, store, registry, wanted.path, told, progress, stop) for told in blobs
        ]:
            try:
                task.result()
            except Failure:
                stop.set()
                raise
        data = store.blobs.path(image.digest).read_bytes()
        media_type = manifest.get("mediaType") or entry.get("mediaType") or MANIFEST
        registry.put_manifest(wanted.path, wanted.tag or image.digest, data, media_type)
        moved.add(moved=len(data))
        said(str(moved).replace("already here", "already there"))
    return moved


def _send(
    store: Store,
    registry: Registry,
    repository: str,
    told: Mapping[str, Any],
    progress: _Progress,
    stop: threading.Event,
) -> None:
    if stop.is_set():
        return
    if registry.has_blob(repository, told["digest"]):
        progress.moved.add(here=told["size"])
        return
    with contextlib.closing(store.blobs.open(told["digest"])) as source:
        registry.upload(repository, told["digest"], told["size"], source, progress.add)
