"""Images as files: both archive forms, root file systems, commit and diff, and the real tools."""

from __future__ import annotations

import io
import json
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest
from capabilities import need
from image_servers import Docker
from image_trees import a_dir, a_file, a_hard_link, a_link, stacked, tar

from host.errors import BadData, Failure, Unsupported
from images import archives, commit, importing, rootfs, space
from images.blobs import sha256
from images.merged import Merged
from images.store import Image, Store


@pytest.fixture
def web(tiny: Store, store: Store) -> Image:
    """tiny with one more layer that deletes, links and adds."""
    archives_of(tiny, ["tiny"], store)
    base = store.resolve("tiny")
    with store.layers.making() as half:
        lowers = store.lower_dirs(base)
        entries = [
            a_file("etc/.wh.profile", b""),
            a_dir("data", mode=0o750),
            a_file("data/f", b"web", uid=5, gid=6, pax={"SCHILY.xattr.user.note": "kept"}),
            a_hard_link("data/g", "data/f"),
            a_link("data/l", "/etc/passwd"),
            a_dir("mnt"),
            a_file("mnt/.wh..wh..opq", b""),
        ]
        from images import unpack

        unpack.apply(io.BytesIO(tar(*entries)), half / "root", lowers)
        return commit.commit(
            store, base, half / "root", "web:v1", "a message", "me", ['CMD ["cat", "/data/f"]']
        )


def archives_of(source: Store, names: list[str], target: Store, form: str = "oci") -> list[Image]:
    """Bring images from store to store through an archive."""
    target.root.mkdir(parents=True, exist_ok=True)
    path = target.root / "archive.tar"
    with path.open("wb") as sink:
        archives.save(source, names, sink, form)
    images = archives.load(target, path)
    path.unlink()
    return images


class TestCommit:
    def test_history_author_and_changes(self, store: Store, web: Image) -> None:
        document = store.document(web.digest)
        assert document["history"][-1]["comment"] == "a message"
        assert document["author"] == "me"
        assert web.config.cmd == ("cat", "/data/f")
        assert len(web.layers) == 2

    def test_a_commit_shows_what_the_container_showed(self, store: Store, web: Image) -> None:
        tree = Merged(store.lower_dirs(web))
        assert tree.find("/etc/profile") is None
        found = tree.find("/data/f")
        assert found is not None
        assert found.status.st_nlink == 2
        assert found.path.read_text() == "web"

    def test_diff_tells_added_changed_deleted(self, tmp_path: Path) -> None:
        low = [a_dir("d"), a_file("d/gone"), a_file("d/same"), a_file("f"), a_dir("o"), a_file("o/hidden")]
        top = [
            a_file("d/.wh.gone", b""),
            a_file("f", b"new"),
            a_file("n"),
            a_dir("o"),
            a_file("o/.wh..wh..opq", b""),
        ]
        upper, *lowers = stacked(tmp_path, low, top)
        assert commit.diff(upper, lowers) == [
            ("C", "/d"), ("D", "/d/gone"), ("C", "/f"), ("A", "/n"), ("C", "/o"), ("D", "/o/hidden"),
        ]  # fmt: skip


class TestArchives:
    @pytest.mark.parametrize("form", archives.FORMS)
    def test_an_image_comes_back_with_names_and_digest(
        self, store: Store, web: Image, tmp_path: Path, form: str
    ) -> None:
        store.tag("web:v1", "other/name:2")
        back = Store(tmp_path / "back")
        images = archives_of(store, ["web:v1", "other/name:2", "tiny"], back, form)
        assert {image.name for image in images} == {"web:v1", "other/name:2", "tiny:latest"}
        assert back.resolve("web:v1").digest == web.digest
        assert list(space.verify(back)) == []

    def test_the_same_images_give_the_same_bytes(self, store: Store, web: Image) -> None:
        files = []
        for _ in range(2):
            files.append(io.BytesIO())
            archives.save(store, ["web:v1"], files[-1])
        assert files[0].getvalue() == files[1].getvalue()

    def refused(self, store: Store, tmp_path: Path, members: dict[str, bytes], words: str) -> None:
        path = tmp_path / "evil.tar"
        with tarfile.open(path, "w") as archive:
            for name, data in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        with pytest.raises(BadData, match=words):
            archives.load(store, path)
        assert store.entries() == []

    def test_lies_are_refused(self, store: Store, tmp_path: Path) -> None:
        config = json.dumps({"rootfs": {"type": "layers", "diff_ids": [sha256(b"other")]}}).encode()
        listed = json.dumps([{"Config": "c", "RepoTags": ["x:1"], "Layers": ["l"]}]).encode()
        layer = tar(a_file("f"))
        self.refused(store, tmp_path, {"manifest.json": listed, "c": config, "l": layer}, "its tar is")
        self.refused(store, tmp_path, {"manifest.json": listed, "c": config}, "holds no file 'l'")
        self.refused(store, tmp_path, {"manifest.json": listed}, "holds no file 'c'")
        self.refused(store, tmp_path, {"manifest.json": b"[1"}, "not JSON")
        self.refused(store, tmp_path, {"manifest.json": b"{}"}, "not a list")
        self.refused(store, tmp_path, {"manifest.json": b"[{}]"}, "without a Config")
        self.refused(store, tmp_path, {"f": b"x"}, "neither manifest.json nor")
        index = {"manifests": [{"digest": "sha256:../../x", "size": 1, "mediaType": "x"}]}
        self.refused(store, tmp_path, {"index.json": json.dumps(index).encode()}, "no sha256 digest")
        digest = sha256(b"told")
        index = {"manifests": [{"digest": digest, "size": 4, "mediaType": "x"}]}
        other = {"index.json": json.dumps(index).encode(), f"blobs/sha256/{digest[7:]}": b"else"}
        self.refused(store, tmp_path, other, "another digest")

    def test_what_is_no_archive_is_refused(self, store: Store, tmp_path: Path) -> None:
        for data in (b"", b"<html></html>", b"\x1f\x8b\x08 broken"):
            (tmp_path / "file").write_bytes(data)
            with pytest.raises(BadData):
                archives.load(store, tmp_path / "file")


class TestRootfs:
    def test_export_and_import_give_the_same_files(self, store: Store, web: Image, tmp_path: Path) -> None:
        plain = io.BytesIO()
        rootfs.export(store.lower_dirs(web), plain)
        (tmp_path / "rootfs.tar").write_bytes(plain.getvalue())
        wish = importing.Wish(str(tmp_path / "rootfs.tar"), "flat:1", ('CMD ["sh"]', "ENV A=b"))
        flat = importing.run(store, wish, lambda _line: None)
        assert (flat.config.cmd, flat.config.env, len(flat.layers)) == (("sh",), ("A=b",), 1)
        again = io.BytesIO()
        rootfs.export(store.lower_dirs(flat), again)
        assert again.getvalue() == plain.getvalue()

    def test_changes_cannot_run_anything(self, store: Store) -> None:
        with pytest.raises(BadData, match="more than change"):
            rootfs.import_tar(store, io.BytesIO(tar(a_file("f"))), "x", ["RUN true"])

    def test_a_bad_tar_leaves_no_name(self, store: Store) -> None:
        with pytest.raises(Failure):
            rootfs.import_tar(store, io.BytesIO(tar(a_file("../f"))), "x")
        assert store.images() == []


class TestDisksAsImages:
    def test_a_disk_becomes_an_image_for_machines(self, store: Store, tmp_path: Path) -> None:
        need("qemu")
        from images import disks

        path = tmp_path / "cloud.img"
        subprocess.run(["qemu-img", "create", "-q", "-f", "vmdk", path, "64M"], check=True)
        image = importing.run(store, importing.Wish(str(path), "cloud:12"), lambda _line: None)
        assert disks.inspect(disks.base(store, image)).disk_format == "qcow2"
        with pytest.raises(Unsupported):
            store.lower_dirs(image)
        assert list(space.verify(store)) == []

    def test_a_disk_that_names_other_files_is_refused(self, store: Store, tmp_path: Path) -> None:
        need("qemu")
        (tmp_path / "secret").write_bytes(bytes(1 << 20))
        evil = tmp_path / "evil.qcow2"
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-b", tmp_path / "secret", "-F", "raw", evil],
            check=True,
        )
        with pytest.raises(BadData, match="backed by"):
            importing.run(store, importing.Wish(str(evil), "evil"), lambda _line: None)


def facts_of(tree: Merged) -> dict[str, tuple[int, ...]]:
    """Mode, owner, and, but for directories, size of all files."""
    found = {}
    for at, one in tree.walk():
        size = 0 if stat.S_ISDIR(one.status.st_mode) else one.status.st_size
        found["/".join(at)] = (one.status.st_mode, one.status.st_uid, one.status.st_gid, size)
    return found


class TestRealTools:
    def test_skopeo_reads_and_writes_both_forms(self, store: Store, web: Image, tmp_path: Path) -> None:
        need("skopeo", "root")  # it unpacks an oci-archive with owners
        for form, kind in (("docker", "docker-archive"), ("oci", "oci-archive")):
            with (tmp_path / f"{form}.tar").open("wb") as sink:
                archives.save(store, ["web:v1"], sink, form)
            theirs = tmp_path / f"theirs-{form}.tar"
            argv = ["skopeo", "copy", "-q", f"{kind}:{tmp_path}/{form}.tar:web:v1", f"{kind}:{theirs}:web:v2"]
            subprocess.run(argv, check=True)
            (image,) = archives.load(store, theirs)
            assert image.config == web.config
            assert image.layers == web.layers

    def test_umoci_unpacks_the_store_to_the_same_tree(self, store: Store, web: Image, tmp_path: Path) -> None:
        need("umoci", "root")
        subprocess.run(["umoci", "unpack", "--image", f"{store.root}:web:v1", tmp_path / "u"], check=True)
        tree = Merged(store.lower_dirs(web))
        assert facts_of(tree) == facts_of(Merged((tmp_path / "u" / "rootfs",)))

    def test_docker_runs_what_we_saved_and_we_load_what_it_saved(
        self, store: Store, web: Image, docker: Docker, tmp_path: Path
    ) -> None:
        with (tmp_path / "ours.tar").open("wb") as sink:
            archives.save(store, ["web:v1"], sink)
        assert "web:v1" in docker("load", "-i", str(tmp_path / "ours.tar"))
        assert docker("run", "--rm", "--network=none", "web:v1") == "web"
        assert docker(
            "run", "--rm", "--network=none", "web:v1", "stat", "-c", "%u:%g %h %a", "/data/f", "/data"
        ) == ("5:6 2 644\n0:0 2 750\n")
        docker("tag", "web:v1", "theirs:1")
        docker("save", "-o", str(tmp_path / "theirs.tar"), "theirs:1")
        (image,) = archives.load(store, tmp_path / "theirs.tar")
        assert image.name == "theirs:1"
        assert image.layers == web.layers
        assert image.config.cmd == web.config.cmd
        docker("create", "--name", "gone", "theirs:1")
        exported = tmp_path / "rootfs.tar"
        docker("export", "-o", str(exported), "gone")
        flat = importing.run(store, importing.Wish(str(exported), "flat"), lambda _line: None)
        found = Merged(store.lower_dirs(flat)).find("/data/f")
        assert found is not None
        assert found.path.read_text() == "web"
