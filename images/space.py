"""What the images occupy, what nothing needs any more, and whether what is there is sound."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from host import records
from host.errors import BadData, Failure
from images import layers as unpacked
from images.reference import is_digest
from images.store import REF_NAME, Image, Store


@dataclass(frozen=True, slots=True)
class Usage:
    """The bytes of one image on disk: `shared` with other images, `unique` to it; `blobs` as transferred."""

    shared_bytes: int
    unique_bytes: int
    blob_bytes: int
    disk_bytes: int


@dataclass(slots=True)
class Freed:
    """What a pruning removed, and the bytes that it gave back."""

    images: list[str] = field(default_factory=list)
    layers: int = 0
    blobs: int = 0
    disks: int = 0
    half_made: int = 0
    freed_bytes: int = 0


def usage(store: Store, image: Image, sharers: Counter[str]) -> Usage:
    """The bytes of one image; `sharers` is of `sharing`. A layer that is not unpacked yet counts nothing."""
    shared = unique = 0
    for chain in image.layers:
        size = int(store.layers.record(chain)["bytes"]) if store.layers.has(chain) else 0
        if sharers[chain] > 1:
            shared += size
        else:
            unique += size
    blobs = sum(layer.size for layer in store.stack(image.digest))
    disks = sum(path.stat().st_blocks * 512 for path in disks_of(store, image.digest))
    return Usage(shared, unique, blobs, disks)


def sharing(store: Store) -> Counter[str]:
    """How many different images use each chain id."""
    digests = {entry["digest"] for entry in store.entries()}
    return Counter(layer.chain_id for digest in digests for layer in store.stack(digest))


def disks_of(store: Store, digest: str) -> list[Path]:
    """The base disks that were made of an image."""
    return sorted((store.root / "disks").glob(digest.removeprefix("sha256:")[:32] + ".*"))


def prune(store: Store, in_use: Collection[str] = (), everything: bool = False) -> Freed:
    """Remove images without a name, half-made files, and every layer, blob and disk that no image needs.

    `in_use` are digests of images that instances stand on: they stay. With `everything`, images go that no
    instance uses, and what builds remember of their steps. It writes nothing but the index.
    """
    freed = Freed()
    with store.alone():
        with store.changing() as entries:
            for entry in list(entries):
                nameless = not (entry.get("annotations") or {}).get(REF_NAME)
                if entry["digest"] not in in_use and (nameless or everything):
                    entries.remove(entry)
                    freed.images.append((entry.get("annotations") or {}).get(REF_NAME, entry["digest"]))
        for half in _entries(store.staging):
            freed.half_made += 1
            freed.freed_bytes += _remove(half)
        _prune_cache(store, everything)
        _collect(store, freed)
    return freed


def collect(store: Store) -> Freed:
    """Remove what no image needs any more, after one was removed."""
    freed = Freed()
    with store.alone():
        _collect(store, freed)
    return freed


def _collect(store: Store, freed: Freed) -> None:
    blobs, chains, digests = _needed(store)
    for digest in store.blobs.digests() - blobs:
        freed.blobs += 1
        freed.freed_bytes += store.blobs.remove(digest)
    kept = {store.layers.folder(chain).name for chain in chains}
    for name in store.layers.chains():
        if name not in kept:
            freed.layers += 1
            freed.freed_bytes += unpacked.used_bytes(store.layers.directory / name)
            store.layers.remove(name)
    shorts = {digest.removeprefix("sha256:")[:32] for digest in digests}
    for disk in _entries(store.root / "disks"):
        if disk.name.lstrip(".").partition(".")[0] not in shorts:
            freed.disks += not disk.name.startswith(".")
            freed.freed_bytes += _remove(disk)


def _needed(store: Store) -> tuple[set[str], set[str], set[str]]:
    """Blobs, chain ids and manifests that the index and the builds' memory name."""
    digests = {entry["digest"] for entry in store.entries()}
    blobs, chains = set(digests), set()
    for digest in digests:
        blobs.add(store.manifest(digest)["config"]["digest"])
        for layer in store.stack(digest):
            blobs.add(layer.digest)
            chains.add(layer.chain_id)
    for record in cache_records(store).values():
        blobs.update(record.get("blobs", ()))
        chains.update(record.get("chains", ()))
    return blobs, chains, digests


def cache_records(store: Store) -> dict[Path, records.Record]:
    """What builds remember: file -> record with `blobs` and `chains` that must stay for it to be of use."""
    found = {}
    for path in _entries(store.root / "cache"):
        if path.suffix == ".json":
            with contextlib.suppress(FileNotFoundError, BadData):
                found[path] = records.read(path)
    return found


def _prune_cache(store: Store, everything: bool) -> None:
    """Forget steps whose layers are in no image (all steps, with `everything`)."""
    named = {layer.digest for entry in store.entries() for layer in store.stack(entry["digest"])}
    for path, record in cache_records(store).items():
        if everything or not set(record.get("blobs", ())) <= named:
            path.unlink(missing_ok=True)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []


def _remove(path: Path) -> int:
    if path.is_dir() and not path.is_symlink():
        size = unpacked.used_bytes(path)
        unpacked.remove_tree(path)
        return size
    size = path.lstat().st_blocks * 512
    path.unlink(missing_ok=True)
    return size


def verify(store: Store) -> Iterator[str]:
    """Read all that images need; one line for each thing that is not what it should be. None: sound."""
    try:
        entries = store.entries()
    except Failure as error:
        yield str(error)
        return
    seen: set[str] = set()
    for entry in entries:
        name = (entry.get("annotations") or {}).get(REF_NAME) or entry["digest"]
        try:
            yield from _verify_image(store, entry["digest"], name, seen)
        except Failure as error:
            yield f"{name}: {error}"
    for name, chain in store.layers.chains().items():
        if not is_digest(chain) or not (store.layers.directory / name / "root").is_dir():
            yield f"layers/{name}: half made, without a record"


def _verify_image(store: Store, digest: str, name: str, seen: set[str]) -> Iterator[str]:
    store.document(digest)
    for layer in store.stack(digest):
        if layer.digest in seen:
            continue
        seen.add(layer.digest)
        if not store.blobs.has(layer.digest):
            yield f"{name}: the blob {layer.digest} is missing"
        elif not store.blobs.has(layer.digest, layer.size):
            yield f"{name}: the blob {layer.digest} has not {layer.size} bytes"
        elif not store.blobs.verify(layer.digest):
            yield f"{name}: the content of the blob {layer.digest} has another digest"
        elif (
            store.layers.has(layer.chain_id)
            and store.layers.record(layer.chain_id)["diff_id"] != layer.diff_id
        ):
            yield f"{name}: the unpacked layer {layer.chain_id} was made of something else"


def half_made(store: Store) -> int:
    """How many half-made files lie about: a killed command's, or a running one's."""
    with contextlib.suppress(FileNotFoundError):
        return len(os.listdir(store.staging))
    return 0
