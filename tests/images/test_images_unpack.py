"""The layer and tar checklist: what a hostile or odd archive may do, and what it may not."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from capabilities import need
from image_trees import Entry, a_dir, a_file, a_hard_link, a_link, tar

from host.errors import BadData
from images import unpack
from images.blobs import Blobs, sha256
from images.layers import TAR_GZIP, Layer, Layers, chain_ids
from images.merged import Merged, is_opaque, is_whiteout
from images.pack import pack_tree


@pytest.fixture
def layer(tmp_path: Path) -> Callable[..., Path]:
    """Apply entries as the next layer of a stack; the layer's directory."""
    stack: list[Path] = []

    def add(*entries: Entry) -> Path:
        target = tmp_path / f"layer{len(list(tmp_path.glob('layer*')))}"
        target.mkdir()
        unpack.apply(io.BytesIO(tar(*entries)), target, tuple(reversed(stack)))
        stack.append(target)
        return target

    return add


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory that no archive may touch."""
    path = tmp_path / "outside"
    path.mkdir()
    (path / "victim").write_text("safe")
    return path


def listing(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


class TestNames:
    @pytest.mark.parametrize("name", ["../evil", "a/../../evil", "a/..", ".."])
    def test_a_name_with_two_dots_is_refused(
        self, layer: Callable[..., Path], tmp_path: Path, name: str
    ) -> None:
        with pytest.raises(BadData, match="leads out"):
            layer(a_file(name))
        assert not (tmp_path / "evil").exists()

    def test_an_absolute_name_lands_inside(self, layer: Callable[..., Path]) -> None:
        assert listing(layer(a_file("/etc/passwd"))) == ["etc", "etc/passwd"]

    def test_the_root_cannot_become_a_link(self, layer: Callable[..., Path]) -> None:
        with pytest.raises(BadData, match="root of the tree"):
            layer(a_link("./", "/etc"), a_file("passwd"))
        with pytest.raises(BadData, match="root of the tree"):
            layer(a_link("/.", "/etc"))

    def test_a_name_with_a_nul_byte_is_refused(self, layer: Callable[..., Path]) -> None:
        with pytest.raises(BadData):
            layer(a_file("x", pax={"path": "a\0b"}))


class TestLinks:
    def test_writing_through_a_planted_link_stays_inside(
        self, layer: Callable[..., Path], outside: Path
    ) -> None:
        root = layer(a_link("door", str(outside)), a_file("door/victim", b"owned"))
        assert (outside / "victim").read_text() == "safe"
        assert (root / str(outside).lstrip("/") / "victim").read_text() == "owned"

    def test_a_planted_relative_link_stays_inside(self, layer: Callable[..., Path], outside: Path) -> None:
        root = layer(a_link("door", "../../outside"), a_file("door/victim", b"owned"))
        assert (outside / "victim").read_text() == "safe"
        assert (root / "outside" / "victim").read_text() == "owned"

    def test_a_link_planted_by_a_lower_layer_is_followed_inside(
        self, layer: Callable[..., Path], outside: Path
    ) -> None:
        layer(a_link("door", str(outside)))
        root = layer(a_file("door/victim", b"owned"))
        assert (outside / "victim").read_text() == "safe"
        assert (root / str(outside).lstrip("/") / "victim").read_text() == "owned"

    def test_an_entry_over_a_link_replaces_the_link(self, layer: Callable[..., Path], outside: Path) -> None:
        root = layer(a_link("victim", str(outside / "victim")), a_file("victim", b"new"))
        assert (outside / "victim").read_text() == "safe"
        assert not (root / "victim").is_symlink()

    def test_a_lower_link_to_a_directory_is_kept_as_usrmerge_needs(self, layer: Callable[..., Path]) -> None:
        layer(a_dir("usr/bin"), a_link("bin", "usr/bin"))
        assert listing(layer(a_file("bin/tool"))) == ["usr", "usr/bin", "usr/bin/tool"]

    def test_a_hard_link_cannot_reach_out(self, layer: Callable[..., Path], outside: Path) -> None:
        with pytest.raises(BadData, match="hard link"):
            layer(a_hard_link("mine", str(outside / "victim")))
        with pytest.raises(BadData):
            layer(a_hard_link("mine", "../outside/victim"))

    def test_a_hard_link_to_a_planted_link_links_the_link(
        self, layer: Callable[..., Path], outside: Path
    ) -> None:
        root = layer(
            a_link("planted", str(outside / "victim")), a_hard_link("mine", "planted"), a_file("mine", b"z")
        )
        assert (outside / "victim").read_text() == "safe"
        assert (root / "mine").read_bytes() == b"z"

    def test_hard_links_share_one_inode(self, layer: Callable[..., Path]) -> None:
        root = layer(a_file("a"), a_hard_link("b", "a"))
        assert (root / "a").stat().st_ino == (root / "b").stat().st_ino

    def test_a_hard_link_into_a_lower_layer_copies_the_file_up(self, layer: Callable[..., Path]) -> None:
        layer(a_file("a", b"low"))
        assert (layer(a_hard_link("b", "a")) / "b").read_bytes() == b"low"

    def test_links_in_a_circle_are_refused(self, layer: Callable[..., Path]) -> None:
        with pytest.raises(BadData, match="circle"):
            layer(a_link("a", "b"), a_link("b", "a"), a_file("a/x"))

    def test_a_file_cannot_have_entries_below_it(self, layer: Callable[..., Path]) -> None:
        with pytest.raises(BadData, match="no directory"):
            layer(a_file("a"), a_file("a/b"))


class TestWhiteouts:
    def test_a_whiteout_hides_the_lower_file_only(self, layer: Callable[..., Path]) -> None:
        low = layer(a_file("gone"), a_file("stays"))
        top = layer(a_file(".wh.gone", b""))
        assert is_whiteout(os.lstat(top / "gone"))
        assert Merged((top, low)).names(()) == ["stays"]

    @pytest.mark.parametrize("first", [0, 1])
    def test_a_file_of_that_name_in_the_same_layer_stays(
        self, layer: Callable[..., Path], first: int
    ) -> None:
        layer(a_file("name", b"old"))
        entries = [a_file(".wh.name", b""), a_file("name", b"new")]
        assert (layer(entries[first], entries[1 - first]) / "name").read_bytes() == b"new"

    @pytest.mark.parametrize("first", [0, 1])
    def test_opaque_hides_what_is_below_wherever_it_stands(
        self, layer: Callable[..., Path], first: int
    ) -> None:
        low = layer(a_dir("d"), a_file("d/old"))
        entries = [a_file("d/.wh..wh..opq", b""), a_file("d/new")]
        top = layer(a_dir("d"), entries[first], entries[1 - first])
        assert is_opaque(top / "d")
        assert Merged((top, low)).names(("d",)) == ["new"]

    def test_whiteouts_inside_an_opaque_directory_are_dropped(self, layer: Callable[..., Path]) -> None:
        layer(a_dir("d"), a_file("d/old"))
        top = layer(a_file("d/.wh..wh..opq", b""), a_file("d/.wh.old", b""))
        assert listing(top) == ["d"]

    def test_a_whiteout_of_a_directory_that_the_layer_makes_anew(self, layer: Callable[..., Path]) -> None:
        low = layer(a_dir("d"), a_file("d/old"))
        top = layer(a_file(".wh.d", b""), a_dir("d"), a_file("d/new"))
        assert Merged((top, low)).names(("d",)) == ["new"]

    @pytest.mark.parametrize("name", [".wh.", "d/.wh.", ".wh..", ".wh..."])
    def test_a_whiteout_of_nothing_is_an_error(self, layer: Callable[..., Path], name: str) -> None:
        with pytest.raises(BadData, match="names nothing"):
            layer(a_file(name, b""))

    def test_opaque_below_a_file_is_an_error(self, layer: Callable[..., Path]) -> None:
        with pytest.raises(BadData, match="no directory"):
            layer(a_file("f"), a_file("f/.wh..wh..opq", b""))

    def test_missing_parents_are_made_like_the_lower_ones(self, layer: Callable[..., Path]) -> None:
        layer(a_dir("d", mode=0o700, mtime=12345))
        top = layer(a_file("d/f"), a_file("e/f"))
        assert stat.S_IMODE((top / "d").stat().st_mode) == 0o700
        assert stat.S_IMODE((top / "e").stat().st_mode) == 0o755

    def test_a_character_device_that_would_be_a_whiteout_is_refused(self, layer: Callable[..., Path]) -> None:
        layer(a_file("f"))
        with pytest.raises(BadData, match="0:0"):
            layer(("f", {"type": tarfile.CHRTYPE, "devmajor": 0, "devminor": 0}))


class TestContent:
    def test_metadata_comes_through(self, layer: Callable[..., Path]) -> None:
        pax = {"mtime": "1234567890.123456789", "SCHILY.xattr.user.note": "caf\udcff"}
        root = layer(a_dir("d", mode=0o1777, mtime=99), a_file("d/f", mode=0o4751, pax=pax))
        status = (root / "d/f").stat()
        assert status.st_mtime_ns == 1234567890123456789
        assert stat.S_IMODE(status.st_mode) == 0o4751
        assert os.getxattr(root / "d/f", "user.note") == b"caf\xff"
        assert (root / "d").stat().st_mtime == 99
        assert stat.S_IMODE((root / "d").stat().st_mode) == 0o1777

    def test_overlayfs_own_attributes_cannot_be_forged(self, layer: Callable[..., Path]) -> None:
        pax = {"SCHILY.xattr.user.overlay.opaque": "y", "SCHILY.xattr.trusted.overlay.redirect": "/etc"}
        root = layer(a_dir("d", pax=pax))
        assert not is_opaque(root / "d")
        assert {"user.overlay.opaque", "trusted.overlay.redirect"}.isdisjoint(os.listxattr(root / "d"))

    def test_owners_devices_and_capabilities_as_root(self, layer: Callable[..., Path]) -> None:
        need("root")
        capability = b"\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
        pax = {"SCHILY.xattr.security.capability": capability.decode("utf-8", "surrogateescape")}
        null = ("null", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3, "mode": 0o666})
        root = layer(a_file("f", uid=1234, gid=77, pax=pax), null, ("pipe", {"type": tarfile.FIFOTYPE}))
        assert ((root / "f").stat().st_uid, (root / "f").stat().st_gid) == (1234, 77)
        assert os.getxattr(root / "f", "security.capability") == capability
        assert (root / "null").stat().st_rdev == os.makedev(1, 3)
        assert stat.S_ISFIFO((root / "pipe").stat().st_mode)

    def test_a_file_that_becomes_a_directory_and_back(self, layer: Callable[..., Path]) -> None:
        root = layer(
            a_dir("x"), a_file("x/y"), a_file("x", b"file"), a_dir("z"), a_file("z/1"), a_link("z", "x")
        )
        assert (root / "x").read_bytes() == b"file"
        assert os.readlink(root / "z") == "x"

    def test_many_directories_need_no_more_descriptors(self, layer: Callable[..., Path]) -> None:
        root = layer(*(a_file(f"d{n}/e/f") for n in range(300)))
        assert len(listing(root)) == 900

    def test_a_huge_sparse_file_costs_only_its_data(self, tmp_path: Path) -> None:
        source = tmp_path / "sparse"
        with source.open("wb") as file:
            file.truncate(1 << 40)
            file.seek(1 << 39)
            file.write(b"middle")
        archive = tmp_path / "sparse.tar"
        # GNU tar writes the sparse forms that Python cannot.
        assert os.system(f"tar -C {tmp_path} --format=posix --sparse -cf {archive} sparse") == 0
        target = tmp_path / "target"
        target.mkdir()
        with archive.open("rb") as file:
            unpack.apply(file, target)
        status = (target / "sparse").stat()
        assert status.st_size == 1 << 40
        assert status.st_blocks * 512 < 1 << 20
        with (target / "sparse").open("rb") as file:
            file.seek(1 << 39)
            assert file.read(6) == b"middle"

    def test_an_absurd_size_is_refused(self, tmp_path: Path) -> None:
        member = tarfile.TarInfo("big")
        member.size = 1 << 62
        with pytest.raises(BadData):
            unpack.apply(io.BytesIO(member.tobuf(tarfile.GNU_FORMAT) + b"\0" * 1024), tmp_path)

    def test_a_cut_archive_is_refused(self, tmp_path: Path) -> None:
        data = tar(a_file("f", b"x" * 5000))
        with pytest.raises(BadData):
            unpack.apply(io.BytesIO(data[:2000]), tmp_path)

    @pytest.mark.parametrize(
        "pax",
        [
            {"mtime": "abc"},
            {"mtime": "1e400"},
            {"uid": "-7"},
            {"gid": "99999999999"},
            {"SCHILY.xattr.user.a\0b": "x"},
            {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"},
        ],
    )
    @pytest.mark.parametrize("make", [a_file, a_dir])
    def test_numbers_and_names_that_are_none_are_refused(
        self, layer: Callable[..., Path], make: Callable[..., Entry], pax: dict[str, str]
    ) -> None:
        need("root")
        with pytest.raises(BadData):
            layer(make("x", pax=pax))

    def test_an_endless_extended_header_is_refused_before_it_is_read(self, tmp_path: Path) -> None:
        member = tarfile.TarInfo("header")
        member.type, member.size = tarfile.XHDTYPE, 1 << 40

        class Endless(io.RawIOBase):
            left = member.tobuf(tarfile.GNU_FORMAT)
            given = 0

            def read(self, size: int = -1) -> bytes:
                data, self.left = self.left[:size].ljust(size, b"x"), self.left[size:]
                self.given += size
                return data

        source = Endless()
        with pytest.raises(BadData, match="extended header"):
            unpack.apply(source, tmp_path)  # type: ignore[arg-type]
        assert source.given < 1 << 20

    @pytest.mark.parametrize("parts", [257, 1200, 2100])
    def test_a_name_of_very_many_parts_is_refused(self, layer: Callable[..., Path], parts: int) -> None:
        with pytest.raises(BadData, match="parts"):
            layer(a_file("/".join(["a"] * parts)))

    def test_no_tar_at_all_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(BadData):
            unpack.apply(io.BytesIO(b"<html>not found</html>" * 100), tmp_path)


class Shelf:
    """A blob store and unpacked layers in a directory."""

    def __init__(self, root: Path) -> None:
        for name in ("blobs", "staging", "layers"):
            (root / name).mkdir()
        self.blobs = Blobs(root / "blobs", root / "staging")
        self.layers = Layers(root / "layers", root / "staging")
        self.staging = root / "staging"

    def ensure(self, blob: bytes, plain: bytes, **claims: object) -> Path:
        """Unpack a blob that claims to be the gzip of `plain`."""
        told = {"digest": self.blobs.put(blob), "size": len(blob), "diff_id": sha256(plain), **claims}
        chain = chain_ids([str(told["diff_id"])])[0]
        layer = Layer(media_type=TAR_GZIP, chain_id=chain, **told)  # type: ignore[arg-type]
        return self.layers.ensure(self.blobs, [layer])[0]


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


class TestBlobs:
    PLAIN = tar(a_file("f", b"content"))

    def test_plain_and_gzip_layers_unpack(self, shelf: Shelf) -> None:
        assert (shelf.ensure(self.PLAIN, self.PLAIN) / "f").read_bytes() == b"content"
        other = tar(a_file("g", b"zipped"))
        assert (shelf.ensure(gzip.compress(other), other) / "g").read_bytes() == b"zipped"

    def test_zstd_layers_unpack(self, shelf: Shelf) -> None:
        frames = zstandard.compress(self.PLAIN[:512]) + zstandard.compress(self.PLAIN[512:])
        assert (shelf.ensure(frames, self.PLAIN) / "f").read_bytes() == b"content"

    def test_damaged_zstd_is_refused(self, shelf: Shelf) -> None:
        blob = zstandard.compress(self.PLAIN)
        self.refused(shelf, "decompress", blob + b"junk", self.PLAIN)
        self.refused(shelf, "diff id|archive", blob[:-9], self.PLAIN)

    def refused(self, shelf: Shelf, words: str, blob: bytes, plain: bytes, **claims: object) -> None:
        with pytest.raises(BadData, match=words):
            shelf.ensure(blob, plain, **claims)
        assert os.listdir(shelf.staging) == []
        assert shelf.layers.chains() == {}

    def test_another_size_than_told_is_refused(self, shelf: Shelf) -> None:
        blob = gzip.compress(self.PLAIN)
        self.refused(shelf, "bytes, not", blob, self.PLAIN, size=len(blob) - 1)
        self.refused(shelf, "bytes, not", blob, self.PLAIN, size=len(blob) + 1)

    def test_another_diff_id_than_told_is_refused(self, shelf: Shelf) -> None:
        self.refused(shelf, "diff id", gzip.compress(self.PLAIN), self.PLAIN, diff_id=sha256(b"other"))

    def test_a_changed_blob_is_refused(self, shelf: Shelf) -> None:
        good, bad = gzip.compress(self.PLAIN), gzip.compress(self.PLAIN.replace(b"content", b"CONTENT"))
        shelf.blobs.put(good)
        shelf.blobs.path(sha256(good)).write_bytes(bad)
        layer = Layer(sha256(good), len(bad), TAR_GZIP, sha256(self.PLAIN), sha256(self.PLAIN))
        with pytest.raises(BadData, match="another digest"):
            shelf.layers.ensure(shelf.blobs, [layer])

    def test_junk_after_the_gzip_member_is_refused(self, shelf: Shelf) -> None:
        self.refused(shelf, "decompress", gzip.compress(self.PLAIN) + b"junk!", self.PLAIN)

    def test_a_second_gzip_member_belongs_to_the_content(self, shelf: Shelf) -> None:
        blob = gzip.compress(self.PLAIN) + gzip.compress(b"tail")
        self.refused(shelf, "diff id", blob, self.PLAIN)
        assert shelf.ensure(blob, self.PLAIN + b"tail")

    def test_a_cut_gzip_is_refused(self, shelf: Shelf) -> None:
        self.refused(shelf, "decompress", gzip.compress(self.PLAIN)[:-12], self.PLAIN)

    def test_a_bomb_is_stopped(self, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
        from images import layers

        monkeypatch.setattr(layers, "FREE_GROWTH_BYTES", 1 << 20)
        plain = tar(a_file("zeros", bytes(64 << 20)))
        self.refused(shelf, "bomb", gzip.compress(plain), plain)

    def test_a_bomb_of_zeros_below_the_limit_fills_no_disk(self, shelf: Shelf) -> None:
        plain = tar(a_file("zeros", bytes(64 << 20)))
        root = shelf.ensure(gzip.compress(plain), plain)
        assert (root / "zeros").stat().st_size == 64 << 20
        assert (root / "zeros").stat().st_blocks == 0

    def test_a_packed_tree_unpacks_to_the_same_tree(self, shelf: Shelf, layer: Callable[..., Path]) -> None:
        low = layer(a_dir("d"), a_file("d/old"), a_file("gone"))
        top = layer(
            a_file(".wh.gone", b""),
            a_dir("d", mode=0o2750),
            a_file("d/.wh..wh..opq", b""),
            a_file("d/f", b"data", pax={"SCHILY.xattr.user.note": "n", "mtime": "5.000000007"}),
            a_hard_link("d/g", "d/f"),
            a_link("l", "nowhere"),
        )
        packed = pack_tree(shelf.blobs, top)
        again = low.parent / "again"
        again.mkdir()
        plain = gzip.decompress(shelf.blobs.path(packed.descriptor["digest"]).read_bytes())
        assert sha256(plain) == packed.diff_id
        unpack.apply(io.BytesIO(plain), again, (low,))
        assert [_facts(again, p) for p in listing(again)] == [_facts(top, p) for p in listing(top)]
        assert pack_tree(shelf.blobs, again) == packed

    def test_source_date_epoch_bounds_all_times(self, shelf: Shelf, tmp_path: Path) -> None:
        os.environ["SOURCE_DATE_EPOCH"] = "1000"
        try:
            packs = []
            for name in "ab":
                (tmp_path / name).mkdir()
                (tmp_path / name / "f").write_text("same")
                packs.append(pack_tree(shelf.blobs, tmp_path / name))
        finally:
            del os.environ["SOURCE_DATE_EPOCH"]
        assert packs[0] == packs[1]


def _facts(root: Path, name: str) -> tuple[object, ...]:
    path = root / name
    status = path.lstat()
    attributes = {
        key: os.getxattr(path, key, follow_symlinks=False)
        for key in os.listxattr(path, follow_symlinks=False)
    }
    content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
    when = 0 if is_whiteout(status) else status.st_mtime_ns  # no tar tells the time of a deletion
    return name, status.st_mode, status.st_uid, status.st_nlink, when, attributes, content
