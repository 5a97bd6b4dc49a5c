"""What a container has changed: listed (diff), or kept as one more layer (commit)."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from images import config as configs
from images import pack, rootfs
from images.merged import Merged, Parts, is_opaque, is_whiteout
from images.store import Image, Store, now_unix_s, rfc3339


def diff(upper: Path, lowers: Sequence[Path]) -> list[tuple[str, str]]:
    """The changed paths, sorted: `A` added, `C` changed, `D` deleted, as docker diff tells them.

    `upper` is a container's writable layer in overlayfs' form, `lowers` its image's layers, top first.
    """
    return sorted(_changes(upper, Merged(lowers), ()), key=lambda change: change[1])


def _changes(upper: Path, below: Merged, at: Parts) -> Iterator[tuple[str, str]]:
    opaque = is_opaque(upper.joinpath(*at)) if at else False
    names = sorted(os.listdir(upper.joinpath(*at)))
    if opaque:
        for name in below.names(at):
            if name not in names:
                yield "D", "/" + "/".join((*at, name))
    for name in names:
        child = (*at, name)
        path, status = "/" + "/".join(child), os.lstat(upper.joinpath(*child))
        was = below.lookup(child)
        if is_whiteout(status):
            if was is not None:
                yield "D", path
            continue
        yield ("A" if was is None else "C"), path
        if stat.S_ISDIR(status.st_mode):
            yield from _changes(upper, below, child)


def commit(
    store: Store,
    image: Image,
    upper: Path,
    name: str = "",
    message: str = "",
    author: str = "",
    changes: Sequence[str] = (),
) -> Image:
    """Store the image with a container's writable layer on top, under a name if given.

    `changes` are lines of a Dockerfile that change the configuration. Pause the container meanwhile.
    """
    with store.using():
        packed = pack.pack_tree(store.blobs, upper)
        document, created = store.document(image.digest), rfc3339(now_unix_s())
        stage = rootfs.changed(image.config, changes)
        step: dict[str, Any] = {"created": created, "created_by": "vmm commit", "comment": message}
        made: dict[str, Any] = {
            **document,
            "created": created,
            "config": configs.to_oci(stage.config),
            "rootfs": {"type": "layers", "diff_ids": [*document["rootfs"]["diff_ids"], packed.diff_id]},
            "history": [*(document.get("history") or []), {**step, "author": author} if author else step],
        }
        if author:
            made["author"] = author
        layers = [*store.manifest(image.digest)["layers"], packed.descriptor]
        done = store.add(made, layers, name)
        store.layers.ensure(store.blobs, store.stack(done.digest))
        return done
