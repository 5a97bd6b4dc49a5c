"""Disks: made of layers without a mount, thin, deterministic, and never trusted."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from capabilities import need

from host.errors import BadData, Failure, Usage
from images import archives, bases, disks, pack, pull
from images.store import DISK_QCOW2, Image, Store


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Image]:
    need("busybox", "qemu")
    store = Store(tmp_path_factory.mktemp("disks"))
    return store, bases.build(store, "tiny")


def debugfs(path: Path, request: str) -> str:
    return subprocess.run(["debugfs", "-R", request, path], capture_output=True, text=True, check=True).stdout


def test_a_base_is_a_sound_file_system_with_the_images_files(
    shelf: tuple[Store, Image], tmp_path: Path
) -> None:
    path = disks.base(*shelf, "raw")
    subprocess.run(["e2fsck", "-fn", path], capture_output=True, check=True)
    assert 'Fast link dest: "/bin/busybox"' in debugfs(path, "stat /bin/sh")
    told = debugfs(path, "stat /etc/shadow")
    assert "Mode:  0600" in told
    assert "User:     0   Group:     0" in told
    out = tmp_path / "busybox"
    debugfs(path, f"dump /bin/busybox {out}")
    (root,) = shelf[0].lower_dirs(shelf[1])
    assert out.read_bytes() == (root / "bin/busybox").read_bytes()


def test_a_base_is_sparse_made_once_and_read_only(shelf: tuple[Store, Image]) -> None:
    path = disks.base(*shelf)
    disk = disks.inspect(path)
    assert (disk.disk_format, disk.virtual_bytes) == ("qcow2", disks.BASE_BYTES)
    assert disk.allocated_bytes < 12 << 20
    assert path.stat().st_mode & 0o222 == 0
    before = path.stat().st_mtime_ns
    assert disks.base(*shelf).stat().st_mtime_ns == before


def test_the_same_image_gives_the_same_file_system(
    shelf: tuple[Store, Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    (root,) = shelf[0].lower_dirs(shelf[1])
    for name in "ab":
        disks.make_ext4(root, tmp_path / name, 64 << 20, "seed")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_machines_disk_costs_little_and_remembers_its_base(
    shelf: tuple[Store, Image], tmp_path: Path
) -> None:
    base = disks.base(*shelf)
    disk = disks.inspect(disks.overlay(base, tmp_path / "disk.qcow2", 20 << 30))
    assert disk.virtual_bytes == 20 << 30
    assert disk.backing == (base,)
    assert disk.allocated_bytes <= 64 << 10


def test_a_disk_smaller_than_its_image_is_refused(shelf: tuple[Store, Image], tmp_path: Path) -> None:
    with pytest.raises(Usage, match="the image needs"):
        disks.overlay(disks.base(*shelf), tmp_path / "disk.qcow2", 1 << 20)


def test_several_layers_become_one_tree(shelf: tuple[Store, Image], tmp_path: Path) -> None:
    from image_trees import a_dir, a_file, stacked

    lowers = stacked(
        tmp_path,
        [a_dir("d", mode=0o750), a_file("d/gone"), a_file("d/kept", b"kept"), a_file("f", b"old")],
        [a_file("d/.wh.gone", b""), a_file("f", b"new")],
    )
    with disks.tree(shelf[0], lowers) as root:
        names = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
        assert names == ["d", "d/kept", "f"]
        assert (root / "f").read_bytes() == b"new"
        assert (root / "d").stat().st_mode & 0o7777 == 0o750
        assert (root / "d/kept").stat().st_ino == (lowers[1] / "d/kept").stat().st_ino
    assert not root.exists()


@pytest.mark.parametrize("disk_format", disks.FORMATS)
def test_each_format_comes_back_the_same(
    shelf: tuple[Store, Image], tmp_path: Path, disk_format: str
) -> None:
    plain = tmp_path / "plain.raw"
    disks.make_ext4(shelf[0].lower_dirs(shelf[1])[0], plain, 64 << 20, "seed")
    made = disks.convert(plain, tmp_path / "made", disk_format, source_format="raw")
    told = "raw" if disk_format == "raw" else disks.trusted_format(made)
    again = disks.convert(made, tmp_path / "again", "raw", source_format=told)
    assert again.read_bytes()[: 64 << 20] == plain.read_bytes()


def image_of_disk(store: Store, path: Path) -> Image:
    """An image as `import` would make it, had it not looked at the disk."""
    with store.using():
        digest, size = pack.store_file(store.blobs, path)
    document = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}
    return store.add(document, [{"mediaType": DISK_QCOW2, "digest": digest, "size": size}], "evil")


class TestUntrusted:
    def make(self, tmp_path: Path, *options: str) -> Path:
        (tmp_path / "secret").write_bytes(b"host secret" + bytes(1 << 20))
        path = tmp_path / "evil"
        subprocess.run(["qemu-img", "create", "-q", *options, path, "1M"], check=True, cwd=tmp_path)
        return path

    def test_a_backing_file_is_refused(self, shelf: object, tmp_path: Path) -> None:
        path = self.make(tmp_path, "-f", "qcow2", "-b", str(tmp_path / "secret"), "-F", "raw")
        with pytest.raises(BadData, match="backed by"):
            disks.trusted_format(path)

    def test_a_data_file_is_refused(self, shelf: object, tmp_path: Path) -> None:
        path = self.make(tmp_path, "-f", "qcow2", "-o", f"data_file={tmp_path}/data,data_file_raw=on")
        with pytest.raises(BadData, match="another file"):
            disks.trusted_format(path)

    def test_an_extent_file_is_refused(self, shelf: object, tmp_path: Path) -> None:
        path = tmp_path / "evil.vmdk"
        (tmp_path / "secret").write_bytes(bytes(1 << 20))
        path.write_text(
            "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\n"
            'createType="monolithicFlat"\n'
            'RW 2048 FLAT "secret" 0\nddb.adapterType = "ide"\nddb.geometry.cylinders = "2"\n'
            'ddb.geometry.heads = "16"\nddb.geometry.sectors = "63"\n'
        )
        with pytest.raises(BadData, match="another file"):
            disks.trusted_format(path)

    def test_raw_is_taken_only_when_said(self, shelf: object, tmp_path: Path) -> None:
        with pytest.raises(BadData, match="no known format"):
            disks.trusted_format(self.make(tmp_path, "-f", "raw"))

    def test_the_name_tells_nothing(self, shelf: object, tmp_path: Path) -> None:
        path = self.make(tmp_path, "-f", "qcow2").rename(tmp_path / "looks.raw")
        assert disks.trusted_format(path) == "qcow2"

    def test_an_archive_brings_no_disk_that_names_files(self, shelf: object, tmp_path: Path) -> None:
        evil = self.make(tmp_path, "-f", "qcow2", "-b", str(tmp_path / "secret"), "-F", "raw")
        theirs, mine = Store(tmp_path / "theirs"), Store(tmp_path / "mine")
        image_of_disk(theirs, evil)
        archive = tmp_path / "archive.tar"
        with archive.open("wb") as sink:
            archives.save(theirs, ["evil"], sink, "oci")
        with pytest.raises(BadData, match="backed by"):
            archives.load(mine, archive)
        assert mine.images() == []

    def test_a_registry_brings_no_disk_that_names_files(
        self, shelf: object, tmp_path: Path, registry: str
    ) -> None:
        evil = self.make(tmp_path, "-f", "qcow2", "-b", str(tmp_path / "secret"), "-F", "raw")
        theirs, mine = Store(tmp_path / "theirs"), Store(tmp_path / "mine")
        image_of_disk(theirs, evil)
        pull.push(theirs, "evil", f"{registry}/evil")
        with pytest.raises(BadData, match="backed by"):
            pull.pull(mine, f"{registry}/evil")
        assert mine.images() == []

    def test_a_name_is_no_protocol(
        self, shelf: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.make(tmp_path, "-f", "qcow2").rename(tmp_path / "nbd:x")
        monkeypatch.chdir(tmp_path)
        assert disks.trusted_format(Path("nbd:x")) == "qcow2"
        assert disks.convert(Path("nbd:x"), Path("ssh:y"), "raw").stat().st_size == 1 << 20
        assert disks.inspect(Path("ssh:y")).disk_format == "raw"

    def test_no_disk_at_all(self, shelf: object, tmp_path: Path) -> None:
        with pytest.raises(Failure):
            disks.inspect(tmp_path / "nothing")


def test_a_guest_finds_nothing_to_zero_in_its_idle_time(shelf: tuple[Store, Image]) -> None:
    if disks._mke2fs_version() < (1, 47):
        pytest.skip("e2fsprogs before 1.47 cannot be told that a file is sparse")
    told = subprocess.run(
        ["dumpe2fs", disks.base(*shelf, "raw")], capture_output=True, text=True, check=True
    ).stdout
    assert told.count("ITABLE_ZEROED") == len(re.findall(r"^Group \d+:", told, re.M)) > 1


def test_a_converted_disk_is_named_after_its_source(
    shelf: tuple[Store, Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cli import main

    monkeypatch.setenv("VMM_HOME", str(shelf[0].home))
    monkeypatch.chdir(tmp_path)
    assert main.main(["image", "convert", "tiny", "--format", "qcow2"]) == 0
    assert main.main(["image", "convert", "tiny.qcow2", "--format", "vhd"]) == 0  # no image has that name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.qcow2", "tiny.vhd"]
    assert main.main(["image", "convert", "tiny", "--format", "qcow2"]) == 1
