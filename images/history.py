"""The steps that made an image, as its configuration tells them."""

from __future__ import annotations

from typing import Any

from images.store import Store


def of(store: Store, name: str) -> list[dict[str, Any]]:
    """The steps, oldest first: created, created_by, author, comment, digest and bytes of the layer made.

    A step that made no layer has an empty digest. Source: OCI image-spec v1.1, config.md, "history".
    """
    image = store.resolve(name)
    layers = iter(store.stack(image.digest))
    steps = []
    for told in store.document(image.digest).get("history") or []:
        layer = None if told.get("empty_layer") else next(layers, None)
        size = 0
        if layer is not None:
            unpacked = store.layers.has(layer.chain_id)
            size = int(store.layers.record(layer.chain_id)["bytes"]) if unpacked else layer.size
        step = {key: str(told.get(key, "")) for key in ("created", "created_by", "author", "comment")}
        steps.append({**step, "digest": layer.digest if layer else "", "size_bytes": size})
    return steps
