"""What the images occupy, and whether what is there is sound."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from host.errors import Failure
from images.reference import is_digest
from images.store import REF_NAME, Image, Store, parts_of


@dataclass(frozen=True, slots=True)
class Usage:
    """The bytes of one image on disk: `shared` with other images, `unique` to it; `blobs` as transferred."""

    shared_bytes: int
    unique_bytes: int
    blob_bytes: int
    disk_bytes: int


def usage(store: Store, image: Image, sharers: Counter[str]) -> Usage:
    """The bytes of one image; `sharers` is of `sharing`. A layer that is not unpacked yet counts nothing."""
    shared = unique = 0
    for chain in image.layers:
        size = int(store.layers.record(chain)["bytes"]) if store.layers.has(chain) else 0
        if sharers[chain] > 1:
            shared += size
        else:
            unique += size
    blobs = sum(told["size"] for told in store.manifest(image.digest)["layers"])
    unique += store.blobs.path(image.disk).stat().st_size if image.disk else 0
    disks = sum(path.stat().st_blocks * 512 for path in disks_of(store, image.digest))
    return Usage(shared, unique, blobs, disks)


def sharing(store: Store) -> Counter[str]:
    """How many different images use each chain id."""
    digests = {entry["digest"] for entry in store.entries()}
    return Counter(layer.chain_id for digest in digests for layer in store.stack(digest))


def disks_of(store: Store, digest: str) -> list[Path]:
    """The base disks that were made of an image."""
    return sorted((store.root / "disks").glob(digest.removeprefix("sha256:")[:32] + ".*"))


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
    for part, blob in parts_of(store.manifest(digest)).items():
        if not (store.blobs.has(blob) and store.blobs.verify(blob)):
            yield f"{name}: the {part} {blob} is missing or has another digest"
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
