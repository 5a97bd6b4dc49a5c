"""What a killed command left half made among the images."""

from __future__ import annotations

from pathlib import Path

from host import records
from host.errors import DeadlinePassed
from images import prune
from images.reference import is_digest
from images.store import Store


def repair(home: Path) -> list[str]:
    """Remove half-made files and layers without a record, one line each; not beside a command that adds."""
    store = Store(home)
    if not store.staging.exists():
        return []
    try:
        with records.lock(store.root / "use.lock", wait_s=0.2):
            return [*_staging(store), *_layers(store)]
    except DeadlinePassed:
        return []


def _staging(store: Store) -> list[str]:
    said = []
    for half in sorted(store.staging.iterdir()):
        prune.remove(half)
        said.append(f"half-made {half.name} of the images")
    return said


def _layers(store: Store) -> list[str]:
    said = []
    for name, chain in store.layers.chains().items():
        if not is_digest(chain):
            store.layers.remove(name)
            said.append(f"the unpacked layer {name}, which had no record")
    return said
