"""What a build remembers: the layer that a step made, by what went into the step."""

from __future__ import annotations

import contextlib
from pathlib import Path

from host import records
from host.errors import BadData
from images.blobs import encode, sha256
from images.layers import Layer
from images.store import Store


def key(*facts: object) -> str:
    """The key of a step: of the key before it, and all that decides what it makes."""
    return sha256(encode(list(facts))).removeprefix("sha256:")


class Cache:
    """The remembered steps of a store; with `reads` off nothing is found, but what is made is still kept."""

    def __init__(self, store: Store, reads: bool = True) -> None:
        self.store, self.reads = store, reads
        self.folder = store.root / "cache"

    def find(self, step: str) -> tuple[Layer, str] | None:
        """The layer that the step made and the time of it, if its blob is still there."""
        if not self.reads:
            return None
        with contextlib.suppress(FileNotFoundError, BadData, KeyError, TypeError):
            record = records.read(self._path(step))
            layer = Layer(**record["layer"])
            if self.store.blobs.has(layer.digest, layer.size):
                return layer, str(record["created"])
        return None

    def keep(self, step: str, layer: Layer, created: str) -> None:
        """Remember a step; `blobs` and `chains` tell `prune` what must stay for it."""
        self.folder.mkdir(exist_ok=True)
        record = {
            "layer": layer._asdict(),
            "created": created,
            "blobs": [layer.digest],
            "chains": [layer.chain_id],
        }
        records.write(self._path(step), record, durable=False)

    def mount(self, name: str) -> Path:
        """The directory of a RUN --mount=type=cache, which stays from build to build."""
        path = self.folder / "mounts" / sha256(name.encode()).removeprefix("sha256:")[:32]
        path.mkdir(parents=True, exist_ok=True)
        return path

    def _path(self, step: str) -> Path:
        return self.folder / f"{step[:48]}.json"
