"""A root file system in one tar: out of an image or an instance, and into an image of one layer."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from host.errors import BadData
from images import config as configs
from images import dockerfile, pack, stages
from images.compression import decompressed
from images.merged import Merged
from images.stage import Stage
from images.store import Image, Store, now_unix_s, rfc3339


def export(trees: Sequence[Path], sink: IO[bytes]) -> None:
    """Write the merged tree of layers (top first, an instance's own on top) as one plain tar."""
    pack.write_tar(sink, pack.items(_entries(Merged(trees))))


def _entries(merged: Merged) -> Iterator[pack.Entry]:
    for at, found in merged.walk():
        yield "/".join(at), found.path, found.status


def import_tar(store: Store, stream: Any, name: str, changes: Sequence[str] = (), message: str = "") -> Image:
    """Make an image of one layer from a tar (plain or packed by gzip, as docker import takes).

    `changes` are lines of a Dockerfile that change the configuration. BadData for what is no tar.
    """
    with store.using():
        try:
            packed = pack.pack_stream(store.blobs, decompressed(stream))
        except (OSError, EOFError, gzip.BadGzipFile) as error:
            raise BadData("cannot import", name, f"cannot read it: {error}") from None
        created = rfc3339(now_unix_s())
        stage = changed(configs.ImageConfig(), changes)
        document = {
            "architecture": configs.host_architecture(),
            "os": "linux",
            "created": created,
            "config": configs.to_oci(stage.config),
            "rootfs": {"type": "layers", "diff_ids": [packed.diff_id]},
            "history": [{"created": created, "created_by": "vmm image import", "comment": message}],
        }
        image = store.add(document, [packed.descriptor])
        store.layers.ensure(store.blobs, store.stack(image.digest))
        return store.tag(image.digest, name) if name else image


def changed(config: configs.ImageConfig, changes: Sequence[str]) -> Stage:
    """The configuration after lines such as `CMD [...]` and `ENV A=b`; BadData for other instructions."""
    plan = stages.StagePlan(0, "scratch", "", 0, ())
    stage = Stage(plan, {}, {}, config)
    for line in changes:
        for one in dockerfile.parse(line):
            if one.word in ("FROM", "RUN", "COPY", "ADD", "ARG"):
                raise BadData(
                    "cannot change the image", line, f"{one.word} does more than change its configuration"
                )
            if one.word == "WORKDIR":
                stage.config = configs_with_workdir(stage, stage.expand(one.rest, one))
            else:
                stage.configure(one)
    return stage


def configs_with_workdir(stage: Stage, path: str) -> configs.ImageConfig:
    """The configuration with another working directory; nothing is made on disk."""
    return stage.config._replace(workdir=stage.at(path).rstrip("/") or "/")
