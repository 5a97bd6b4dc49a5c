"""A disk that fills up in the middle: a clear error, a sound store, and the space given back."""

from __future__ import annotations

import functools
import http.server
import io
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from capabilities import need
from commandline import CommandLine
from image_trees import a_file, tar

from host.errors import Failure
from images import archives, build, disks, importing, pull, rootfs, space
from images.build import Request
from images.store import Store
from instances.build import run_step

BIG = 24 << 20


@pytest.fixture
def small(tiny: Store, tmp_path: Path) -> Iterator[Store]:
    """A store with tiny on a file system of 16 MiB."""
    need("root")
    mounted = tmp_path / "small"
    mounted.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", mounted], check=True)
    try:
        store = Store(mounted)
        path = tmp_path / "tiny.tar"
        with path.open("wb") as sink:
            archives.save(tiny, ["tiny"], sink, "oci")
        archives.load(store, path)
        store.lower_dirs(store.resolve("tiny"))
        yield store
    finally:
        subprocess.run(["umount", "-l", mounted], check=True)


def free_bytes(store: Store) -> int:
    told = os.statvfs(store.root)
    return told.f_bavail * told.f_frsize


def survives(store: Store, work: object) -> None:
    """Run the work; it must fail for want of space and leave nothing."""
    before, names = free_bytes(store), [image.name for image in store.images()]
    with pytest.raises(Failure) as caught:
        work()  # type: ignore[operator]
    assert "space" in str(caught.value)
    assert "vmm prune" in caught.value.hint
    assert list(space.verify(store)) == []
    assert [image.name for image in store.images()] == names
    assert os.listdir(store.staging) == []
    assert free_bytes(store) > before - (1 << 20)


@pytest.fixture
def noise(tmp_path: Path) -> bytes:
    return os.urandom(BIG)


def test_in_a_build(small: Store, tmp_path: Path, noise: bytes) -> None:
    (tmp_path / "context").mkdir()
    (tmp_path / "context" / "big").write_bytes(noise)
    (tmp_path / "context" / "Dockerfile").write_text("FROM tiny\nCOPY big /\n")
    survives(small, lambda: build.build(small, Request(tmp_path / "context"), run_step))


def test_in_an_unpacking_that_is_larger_than_its_blob(small: Store) -> None:
    # Compresses well, unpacks to more than there is.
    data = b"00000007" * (BIG // 8)
    survives(small, lambda: rootfs.import_tar(small, io.BytesIO(tar(a_file("f", data))), "big"))


def test_in_a_load(small: Store, tiny: Store, tmp_path: Path, noise: bytes) -> None:
    source = Store(tmp_path / "source")
    rootfs.import_tar(source, io.BytesIO(tar(a_file("f", noise))), "big")
    with (tmp_path / "big.tar").open("wb") as sink:
        archives.save(source, ["big"], sink)
    survives(small, lambda: archives.load(small, tmp_path / "big.tar"))


def test_in_a_pull(small: Store, registry: str, tmp_path: Path, noise: bytes) -> None:
    source = Store(tmp_path / "source")
    rootfs.import_tar(source, io.BytesIO(tar(a_file("f", noise))), "big")
    pull.push(source, "big", f"{registry}/big:1")
    survives(small, lambda: pull.pull(small, f"{registry}/big:1"))


def test_in_the_making_of_a_disk(small: Store, tmp_path: Path) -> None:
    need("qemu")
    filler = small.root / "filler"
    filler.write_bytes(bytes(free_bytes(small) - (2 << 20)))
    survives(small, lambda: disks.base(small, small.resolve("tiny")))


def test_in_a_download(small: Store, tmp_path: Path, noise: bytes) -> None:
    served = tmp_path / "served"
    served.mkdir()
    (served / "disk").write_bytes(noise)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(served))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        wish = importing.Wish(f"http://127.0.0.1:{server.server_address[1]}/disk", "disk:1", raw=True)
        survives(small, lambda: importing.run(small, wish, lambda _line: None))
        server.shutdown()
    assert os.listdir(small.root / "downloads") == []


def test_in_the_import_of_a_disk(small: Store, tmp_path: Path, noise: bytes) -> None:
    need("qemu")
    (tmp_path / "disk").write_bytes(noise)
    wish = importing.Wish(str(tmp_path / "disk"), "disk:1", raw=True)
    survives(small, lambda: importing.run(small, wish, lambda _line: None))


@pytest.mark.parametrize(
    "words",
    [
        ["--format", "raw"],
        ["--format", "vmdk"],
        pytest.param(["--format", "vdi", "--bootable"], marks=pytest.mark.slow),
    ],
)
def test_in_a_conversion_that_writes_elsewhere(
    home: Path, small: Store, tiny: Store, words: list[str]
) -> None:
    need("qemu", *(("syslinux", "kernel") if "--bootable" in words else ()))
    vmm, target = CommandLine(tiny.home), small.home / "disk"
    before = free_bytes(small)
    (small.home / "filler").write_bytes(bytes(before - (1 << 20)))
    done = vmm.run("image", "convert", "tiny", *words, "-o", str(target), timeout_s=200)
    assert done.returncode == 1
    assert "space" in done.stderr
    assert "fault of vmm" not in done.stderr
    assert sorted(path.name for path in small.home.iterdir()) == ["filler", "images"]
    assert free_bytes(small) > (1 << 20) - (64 << 10)
