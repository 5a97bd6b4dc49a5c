"""The store: an OCI layout that two commands and a kill -9 leave sound."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from capabilities import need

from host.errors import BadData, NotFound
from images import bases, prune, repair, space
from images.blobs import encode, sha256
from images.store import INDEX, MANIFEST, Image, Store

ROOT = Path(__file__).parents[2]
BUILD = """
import sys, tempfile
from pathlib import Path
from images.pack import pack_tree
from images.store import Store
store = Store(Path(sys.argv[1]))
for turn in range(int(sys.argv[3])):
    name = f"{sys.argv[2]}:{turn}"
    with store.using(), tempfile.TemporaryDirectory(dir=store.staging) as half:
        Path(half, "file").write_text(name)
        Path(half, "common").write_bytes(bytes(300000))
        packed = pack_tree(store.blobs, Path(half))
        document = {"architecture": "amd64", "os": "linux"}
        document["rootfs"] = {"type": "layers", "diff_ids": [packed.diff_id]}
        image = store.add(document, [packed.descriptor], name)
    store.lower_dirs(image)
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def an_image(store: Store, name: str, content: str = "content") -> Image:
    subprocess.run([sys.executable, "-c", BUILD, store.home, name, "1"], check=True, cwd=ROOT)
    assert content
    return store.resolve(f"{name}:0")


class TestTiny:
    def test_tiny_is_made_and_runs(self, store: Store) -> None:
        need("busybox")
        image = bases.build(store, "tiny")
        (root,) = store.lower_dirs(image)
        assert image.config.cmd == ("/bin/sh",)
        assert os.readlink(root / "bin/sh") == "/bin/busybox"
        told = subprocess.run([root / "bin/busybox", "echo", "hi"], capture_output=True, check=True)
        assert told.stdout == b"hi\n"
        assert (root / "tmp").stat().st_mode & 0o7777 == 0o1777

    def test_the_same_busybox_gives_the_same_digest(self, tmp_path: Path) -> None:
        need("busybox")
        one, two = (bases.build(Store(tmp_path / name), "tiny") for name in "ab")
        assert one.digest == two.digest

    def test_skopeo_reads_the_store_as_it_lies(self, store: Store) -> None:
        need("busybox", "skopeo")
        image = bases.build(store, "tiny")
        told = subprocess.run(
            ["skopeo", "inspect", f"oci:{store.root}:tiny:latest"], capture_output=True, check=True
        )
        assert json.loads(told.stdout)["Digest"] == image.digest

    def test_an_unknown_base_is_told(self, store: Store) -> None:
        with pytest.raises(NotFound, match="no base image"):
            bases.build(store, "windows")


class TestNames:
    def test_an_image_is_found_by_name_digest_and_beginning(self, store: Store) -> None:
        image = an_image(store, "x")
        found = [
            store.resolve(n).digest for n in ("x:0", image.digest, image.digest[7:15], f"x@{image.digest}")
        ]
        assert found == [image.digest] * 4

    def test_what_is_not_there_is_not_found(self, store: Store) -> None:
        for name in ("tiny", "0" * 12, f"x@sha256:{'0' * 64}"):
            with pytest.raises(NotFound):
                store.resolve(name)

    def test_a_digest_of_another_image_does_not_match_the_name(self, store: Store) -> None:
        other = an_image(store, "other")
        an_image(store, "x")
        with pytest.raises(NotFound):
            store.resolve(f"x:0@{other.digest}")

    def test_a_name_moves_and_the_old_image_stays_until_prune(self, store: Store) -> None:
        old, new = an_image(store, "old"), an_image(store, "new")
        store.tag("new:0", "old:0")
        assert store.resolve("old:0").digest == new.digest
        assert store.resolve(old.digest).digest == old.digest
        kept = prune.prune(store, {old.digest})
        assert not kept.images
        assert store.lower_dirs(store.resolve(old.digest))[0].exists()
        assert prune.prune(store).images == [old.digest]
        with pytest.raises(NotFound):
            store.resolve(old.digest)
        assert list(space.verify(store)) == []

    def test_removing_the_last_name_gives_the_space_back(self, store: Store) -> None:
        image = an_image(store, "x")
        store.tag("x:0", "y")
        (root,) = store.lower_dirs(image)
        store.untag("x:0")
        prune.collect(store)
        assert root.exists()
        store.untag("y")
        assert prune.collect(store).freed_bytes > 0
        assert not root.exists()
        assert store.blobs.digests() == set()

    def test_shared_and_unique_bytes_are_told_apart(self, store: Store) -> None:
        image = an_image(store, "x")
        room = space.usage(store, image, space.sharing(store))
        assert (room.shared_bytes, room.unique_bytes > 0) == (0, True)
        document = {**store.document(image.digest), "author": "another"}
        twin = store.add(document, store.manifest(image.digest)["layers"], "twin")
        room = space.usage(store, twin, space.sharing(store))
        assert (room.shared_bytes > 0, room.unique_bytes) == (True, 0)


class TestDamage:
    def test_a_damaged_manifest_is_refused(self, store: Store) -> None:
        image = an_image(store, "x")
        store.blobs.path(image.digest).write_text("{}")
        with pytest.raises(BadData, match="another digest"):
            store.resolve("x:0")
        assert any("another digest" in line for line in space.verify(store))

    def test_a_damaged_layer_is_told_by_verify(self, store: Store) -> None:
        image = an_image(store, "x")
        path = store.blobs.path(store.stack(image.digest)[0].digest)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        assert any("another digest" in line for line in space.verify(store))
        path.unlink()
        assert any("missing" in line for line in space.verify(store))

    def test_an_index_in_place_of_a_manifest_is_refused(self, store: Store) -> None:
        # CVE-2021-41190: one blob that reads as an index to one tool and as a manifest to another.
        image = an_image(store, "x")
        both = {**store.manifest(image.digest), "manifests": []}
        for document in (both, {**store.manifest(image.digest), "mediaType": INDEX}):
            digest = store.blobs.put(encode(document))
            with pytest.raises(BadData, match="no image manifest"):
                store.enter(digest, len(encode(document)), "evil")

    @pytest.mark.parametrize(
        "layer",
        [
            {"mediaType": "application/zip", "digest": sha256(b""), "size": 1},
            {"mediaType": MANIFEST, "digest": "../../etc/passwd", "size": 1},
            {"mediaType": MANIFEST, "digest": sha256(b""), "size": -1},
            {"mediaType": MANIFEST, "digest": sha256(b""), "size": True},
            "not an object",
        ],
    )
    def test_odd_descriptors_are_refused(self, store: Store, layer: object) -> None:
        image = an_image(store, "x")
        document = {**store.manifest(image.digest), "layers": [layer]}
        digest = store.blobs.put(encode(document))
        with pytest.raises(BadData):
            store.enter(digest, 1, "evil")


class TestAfterACrashOfTheHost:
    def test_a_small_layer_of_another_boot_is_unpacked_again(self, store: Store) -> None:
        image = an_image(store, "x")
        (root,) = store.lower_dirs(image)
        (record,) = root.parent.glob("layer.*.json")
        record.rename(record.with_name("layer.00000000.json"))
        (root / "file").write_text("torn")
        assert not store.layers.has(image.layers[0])
        assert list(space.verify(store)) == []
        (again,) = store.lower_dirs(image)
        assert (again / "file").read_text() == "x:0"
        assert os.listdir(store.staging) == []


class TestTwoAtOnce:
    def test_many_writers_lose_nothing(self, store: Store) -> None:
        argv = [sys.executable, "-c", BUILD, str(store.home)]
        writers = [subprocess.Popen([*argv, f"w{n}", "5"], cwd=ROOT) for n in range(3)]
        assert [writer.wait(timeout=60) for writer in writers] == [0, 0, 0]
        assert len(store.images()) == 15
        assert list(space.verify(store)) == []

    def test_prune_beside_writers_takes_nothing_from_them(self, store: Store) -> None:
        argv = [sys.executable, "-c", BUILD, str(store.home), "w", "10"]
        writer = subprocess.Popen(argv, cwd=ROOT)
        while writer.poll() is None:
            prune.prune(store)
        assert writer.returncode == 0
        assert len(store.images()) == 10
        assert list(space.verify(store)) == []

    def test_kill_9_at_any_moment_leaves_a_sound_store(self, store: Store) -> None:
        argv = [sys.executable, "-c", BUILD, str(store.home)]
        dice = random.Random(3)
        for turn in range(8):
            writer = subprocess.Popen([*argv, f"k{turn}", "50"], cwd=ROOT)
            time.sleep(0.1 + dice.random() * 0.4)
            writer.send_signal(signal.SIGKILL)
            writer.wait()
            assert list(space.verify(store)) == []
        repair.repair(store.home)
        assert os.listdir(store.staging) == []
        for image in store.images():
            assert store.lower_dirs(image)[0].is_dir()
