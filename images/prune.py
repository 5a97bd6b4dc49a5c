"""Remove what no image needs any more; `images.store` tells what lies where."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from host import records
from host.errors import BadData, DeadlinePassed
from images import layers as unpacked
from images.store import REF_NAME, Store


@dataclass(slots=True)
class Freed:
    """What a pruning removed, and the bytes that it gave back."""

    images: list[str] = field(default_factory=list)
    layers: int = 0
    blobs: int = 0
    disks: int = 0
    half_made: int = 0
    freed_bytes: int = 0

    def lines(self) -> list[str]:
        """What was removed, for people."""
        counts = ((self.layers, "layers"), (self.blobs, "blobs"), (self.disks, "base disks"))
        told = [f"image {name}" for name in self.images]
        told += [f"{count} {what} that no image needs" for count, what in counts if count]
        return told + ([f"{self.half_made} half-made files of images"] if self.half_made else [])


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
            freed.freed_bytes += remove(half)
        _prune_downloads(store, freed)
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
            freed.freed_bytes += remove(disk)


def _needed(store: Store) -> tuple[set[str], set[str], set[str]]:
    """Blobs, chain ids and manifests that the index and the builds' memory name."""
    digests = {entry["digest"] for entry in store.entries()}
    blobs, chains = set(digests), set()
    for digest in digests:
        blobs.add(store.manifest(digest)["config"]["digest"])
        blobs.update(told["digest"] for told in store.manifest(digest)["layers"])
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


def _prune_downloads(store: Store, freed: Freed) -> None:
    """Remove what cut transfers left, but for what a command is at just now."""
    for half in _entries(store.root / "downloads"):
        if half.suffix in (".lock", ".version"):
            continue
        with contextlib.suppress(DeadlinePassed), records.lock(half.with_suffix(".lock"), wait_s=0):
            freed.half_made += 1
            freed.freed_bytes += remove(half)
            for beside in (half.with_suffix(".version"), half.with_suffix(".lock")):
                beside.unlink(missing_ok=True)


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


def remove(path: Path) -> int:
    """Remove a file or a tree; the bytes that it occupied."""
    if path.is_dir() and not path.is_symlink():
        size = unpacked.used_bytes(path)
        unpacked.remove_tree(path)
        return size
    size = path.lstat().st_blocks * 512
    path.unlink(missing_ok=True)
    return size
