"""Archives changed at random: what comes of them is an image or a clear error, never a fault of ours."""

from __future__ import annotations

import copy
import gzip
import io
import json
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from image_trees import a_dir, a_file, a_hard_link, a_link, tar

from host.errors import Failure
from images import archives, history, space, unpack
from images.blobs import encode, sha256
from images.store import CONFIG, INDEX, MANIFEST, REF_NAME, Store

PLAIN = tar(
    a_dir("d"),
    a_file("d/f", b"data" * 100, pax={"mtime": "12.5", "SCHILY.xattr.user.a": "b"}),
    a_link("l", "d/f"),
    a_hard_link("h", "d/f"),
    a_file("d/.wh.x", b""),
    a_file("n" * 150),
)
GNU = tar(
    a_dir("d"), a_file("d/f", b"q" * 700), a_file("x" * 200), a_file("d/.wh..wh..opq", b""),
    fmt=tarfile.GNU_FORMAT,
)  # fmt: skip
BLOB = gzip.compress(PLAIN, mtime=0)
CONFIGURATION: dict[str, Any] = {
    "architecture": "amd64",
    "os": "linux",
    "created": "2020-01-01T00:00:00Z",
    "author": "a",
    "config": {
        "Entrypoint": ["a"], "Cmd": ["b"], "Env": ["A=b"], "User": "u", "WorkingDir": "/w",
        "Labels": {"a": "b"},
        "Volumes": {"/v": {}}, "ExposedPorts": {"80/tcp": {}}, "StopSignal": "TERM", "OnBuild": ["RUN x"],
        "Healthcheck": {"Test": ["CMD", "x"], "Interval": 5, "Retries": 1}, "Shell": ["sh"],
    },
    "rootfs": {"type": "layers", "diff_ids": [sha256(PLAIN)]},
    "history": [{"created": "2020-01-01T00:00:00Z", "created_by": "x", "empty_layer": False}],
}  # fmt: skip
ODD = (
    None,
    1,
    -1,
    "x",
    "",
    [],
    {},
    True,
    1e308,
    "a" * 300,
    ["x"],
    {"x": 1},
    "../../etc",
    [None],
    "\0",
    10**30,
)


def mutated_bytes(rng: random.Random, data: bytes) -> bytes:
    """Some bytes changed; mostly with sound checksums, so that the change reaches what is behind them."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        changed[rng.randrange(len(changed))] = rng.choice(
            (0, 255, rng.randrange(256), 48 + rng.randrange(10))
        )
    if rng.random() < 0.8:
        for at in range(0, len(changed) - 511, 512):
            block = changed[at : at + 512]
            if block[257:262] == b"ustar":
                changed[at + 148 : at + 156] = b"%06o\0 " % (256 + sum(block[:148]) + sum(block[156:]))
    return bytes(changed)


def places(document: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    if isinstance(document, dict | list):
        for key, value in document.items() if isinstance(document, dict) else enumerate(document):
            yield from places(value, (*at, key))


def mutated(rng: random.Random, document: Any) -> Any:
    """One or two values of a document replaced by odd ones, or gone."""
    changed = copy.deepcopy(document)
    for _ in range(rng.randint(1, 2)):
        at = rng.choice(list(places(changed)))
        if not at:
            return copy.deepcopy(rng.choice(ODD))
        owner = changed
        for key in at[:-1]:
            owner = owner[key]
        if rng.random() < 0.2:
            del owner[at[-1]]
        else:
            owner[at[-1]] = copy.deepcopy(rng.choice(ODD))
    return changed


def an_archive(rng: random.Random) -> bytes:
    """An OCI or docker archive of which one document is mutated; all digests are right."""
    which = rng.randrange(5)
    config = encode(mutated(rng, CONFIGURATION) if which == 0 else CONFIGURATION)
    if which > 2:
        told: Any = [{"Config": "c.json", "RepoTags": ["n:1"], "Layers": ["l.tar"]}]
        listed = encode(mutated(rng, told) if which == 3 else told)
        config = encode(mutated(rng, CONFIGURATION)) if which == 4 else config
        return tar(a_file("manifest.json", listed), a_file("c.json", config), a_file("l.tar", PLAIN))
    layer = {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", **descriptor(BLOB)}
    manifest: Any = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, **descriptor(config)},
        "layers": [layer],
    }
    data = encode(mutated(rng, manifest) if which == 1 else manifest)
    platform = {"architecture": "amd64", "os": "linux", "variant": "v1"}
    entry = {
        "mediaType": MANIFEST,
        **descriptor(data),
        "platform": platform,
        "annotations": {REF_NAME: "n:1"},
    }
    index: Any = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}
    blobs = [a_file(f"blobs/sha256/{sha256(one)[7:]}", one) for one in (config, data, BLOB)]
    return tar(*blobs, a_file("index.json", encode(mutated(rng, index) if which == 2 else index)))


def descriptor(data: bytes) -> dict[str, Any]:
    return {"digest": sha256(data), "size": len(data)}


@pytest.mark.parametrize("seed", range(4))
def test_a_mutated_layer_unpacks_or_is_refused(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    for number in range(150):
        target = tmp_path / str(number)
        target.mkdir()
        try:
            unpack.apply(io.BytesIO(mutated_bytes(rng, rng.choice((PLAIN, GNU)))), target)
        except Failure:
            continue


@pytest.mark.parametrize("seed", range(4))
def test_a_mutated_archive_loads_or_is_refused(tmp_path: Path, seed: int) -> None:
    rng, path, loaded = random.Random(seed), tmp_path / "archive", 0
    for number in range(60):
        path.write_bytes(an_archive(rng))
        store = Store(tmp_path / str(number))
        try:
            for image in archives.load(store, path):
                store.lower_dirs(image)
                history.of(store, image.digest)
                space.usage(store, image, space.sharing(store))
                json.dumps(store.document(image.digest))
                loaded += 1
        except Failure:
            continue
    assert loaded
