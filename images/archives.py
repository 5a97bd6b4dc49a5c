"""Images in one file: docker's archive (`docker save`) and the OCI layout in a tar (`oci-archive`)."""

from __future__ import annotations

import io
import json
import posixpath
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from host.errors import BadData, Usage
from images import disks, pack, platforms, reference
from images.blobs import MAX_DOCUMENT_BYTES, encode, parse, sha256
from images.compression import decompressed
from images.store import INDEX, REF_NAME, Image, Store, checked_manifest, diff_ids_of, listed

FORMS = ("docker", "oci")
_CONTAINERD_NAME = "io.containerd.image.name"


def save(store: Store, names: Sequence[str], sink: IO[bytes], form: str = "docker") -> None:
    """Write images, with their names, as one archive of a form. The same images give the same bytes."""
    if form not in FORMS:
        raise Usage("cannot save as", form, hint="docker or oci")
    images = [store.resolve(name) for name in names]
    with tarfile.open(fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        (_save_docker if form == "docker" else _save_oci)(store, images, archive)


def _save_docker(store: Store, images: list[Image], archive: tarfile.TarFile) -> None:
    """docker's image spec v1.2: manifest.json names a config and layer files, which gzip may have packed."""
    written: set[str] = set()
    listed = []
    for image in _once(images):
        manifest = store.manifest(image.digest)
        config = manifest["config"]["digest"]
        _blob(store, archive, config, f"{_hex(config)}.json", written)
        layers = []
        for layer in store.stack(image.digest):
            layers.append(f"{_hex(layer.digest)}.tar")
            _blob(store, archive, layer.digest, layers[-1], written)
        tags = [i.name for i in images if i.digest == image.digest and not reference.is_digest(i.name)]
        listed.append({"Config": f"{_hex(config)}.json", "RepoTags": tags or None, "Layers": layers})
    _bytes(archive, "manifest.json", json.dumps(listed).encode())


def _save_oci(store: Store, images: list[Image], archive: tarfile.TarFile) -> None:
    written: set[str] = set()
    entries = []
    for image in images:
        entry = {k: v for k, v in store.descriptor(image.digest).items() if k != "annotations"}
        entries.append({**entry, "annotations": {REF_NAME: image.name, _CONTAINERD_NAME: image.name}})
        manifest = store.manifest(image.digest)
        for told in (entry, manifest["config"], *manifest["layers"]):
            _blob(store, archive, told["digest"], f"blobs/sha256/{_hex(told['digest'])}", written)
    _bytes(archive, "oci-layout", encode({"imageLayoutVersion": "1.0.0"}))
    _bytes(archive, "index.json", encode({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}))


def _once(images: list[Image]) -> list[Image]:
    return list({image.digest: image for image in images}.values())


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _blob(store: Store, archive: tarfile.TarFile, digest: str, name: str, written: set[str]) -> None:
    if name in written:
        return
    written.add(name)
    member = tarfile.TarInfo(name)
    with store.blobs.open(digest) as file:
        member.size = store.blobs.path(digest).stat().st_size
        archive.addfile(member, file)


def _bytes(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def load(store: Store, path: Path, progress: Callable[[str], None] = lambda _line: None) -> list[Image]:
    """Store the images of an archive of either form, told by its content. BadData for anything else.

    Nothing of the archive is unpacked by name: members are read, digested, and stored under their digests.
    """
    try:
        with tarfile.open(path, "r:*") as archive, store.using():
            found = _Archive(store, archive, progress)
            if found.has("manifest.json"):
                return found.load_docker()
            if found.has("index.json"):
                return found.load_oci()
    except (tarfile.TarError, EOFError, UnicodeError) as error:
        raise BadData("cannot load", str(path), f"not a sound archive: {error}") from None
    why = "it holds neither manifest.json nor index.json"
    raise BadData("cannot load", str(path), why, "for a tar of a root file system: vmm image import --rootfs")


class _Archive:
    """An archive being loaded."""

    def __init__(self, store: Store, archive: tarfile.TarFile, progress: Callable[[str], None]) -> None:
        self.store, self.archive, self.progress = store, archive, progress
        self.members = {posixpath.normpath(member.name): member for member in archive}

    def has(self, name: str) -> bool:
        return name in self.members

    def _open(self, name: str) -> IO[bytes]:
        """A member; a link is followed among the members, as docker's old archives have for equal layers."""
        for _ in range(8):
            member = self.members.get(posixpath.normpath(name))
            if member is None:
                break
            if member.issym():
                name = posixpath.join(posixpath.dirname(member.name), member.linkname)
                continue
            if member.islnk():
                name = member.linkname
                continue
            if not member.isreg():
                break
            file = self.archive.extractfile(member)
            assert file is not None
            return file
        raise BadData("cannot load the archive", why=f"it holds no file {name!r}")

    def _document(self, name: str) -> bytes:
        with self._open(name) as file:
            data = file.read(MAX_DOCUMENT_BYTES + 1)
        if len(data) > MAX_DOCUMENT_BYTES:
            raise BadData("cannot load the archive", why=f"{name} is larger than 4 MiB")
        return data

    def load_docker(self) -> list[Image]:
        try:
            listed = json.loads(self._document("manifest.json"))
        except ValueError as error:
            raise BadData("cannot load the archive", "manifest.json", f"not JSON: {error}") from None
        if not isinstance(listed, list):
            raise BadData("cannot load the archive", "manifest.json", "not a list")
        images = []
        for told in listed:
            images += self._docker_image(told)
        return images

    def _docker_image(self, told: Mapping[str, Any]) -> list[Image]:
        if not isinstance(told, dict) or not isinstance(told.get("Config"), str):
            raise BadData("cannot load the archive", "manifest.json", "an image without a Config")
        document = parse(self._document(told["Config"]), told["Config"])
        names, diff_ids = _words(told, "Layers"), diff_ids_of(document)
        if len(names) != len(diff_ids):
            raise BadData("cannot load the archive", "manifest.json", "layers and diff ids differ in number")
        here = self.store.by_diff_id()
        layers = [
            here.get(diff_id) or self._layer(name, diff_id)
            for name, diff_id in zip(names, diff_ids, strict=True)
        ]
        tags = _words(told, "RepoTags") or [""]
        return [self.store.add(document, layers, _familiar(tag)) for tag in tags]

    def _layer(self, name: str, diff_id: str) -> dict[str, Any]:
        self.progress(f"layer {diff_id[7:19]}")
        with self._open(name) as file:
            packed = pack.pack_stream(self.store.blobs, decompressed(file))
        if packed.diff_id != diff_id:
            self.store.blobs.remove(packed.descriptor["digest"])
            raise BadData("cannot load the layer", name, f"its tar is {packed.diff_id}, not {diff_id}")
        return packed.descriptor

    def load_oci(self) -> list[Image]:
        index = parse(self._document("index.json"), "index.json")
        return [self._oci_image(entry) for entry in listed(index, "index.json")]

    def _oci_image(self, entry: dict[str, Any]) -> Image:
        notes = entry.get("annotations") or {}
        name = str(notes.get(_CONTAINERD_NAME) or notes.get(REF_NAME) or "")
        data = self._oci_document(entry)
        document = parse(data, entry["digest"])
        if platforms.is_index(document, str(entry.get("mediaType", ""))):
            data = self._oci_document(platforms.choose(document, name))
        digest = sha256(data)
        manifest = checked_manifest(parse(data, digest), digest)
        for told in (manifest["config"], *manifest["layers"]):
            if not self.store.blobs.has(told["digest"], told["size"]):
                self._oci_blob(told)
        disks.check_parts(self.store, manifest)
        self.store.blobs.put(data)
        return self.store.enter(digest, len(data), _familiar(name))

    def _oci_document(self, entry: Mapping[str, Any]) -> bytes:
        digest = str(entry.get("digest", ""))
        data = self._document(str(self._oci_path(digest)))
        if sha256(data) != digest:
            raise BadData("cannot load the archive", digest, "its content has another digest")
        return data

    def _oci_path(self, digest: str) -> str:
        if not reference.is_digest(digest):
            raise BadData("cannot load the archive", why=f"{digest!r} is no sha256 digest")
        return f"blobs/sha256/{_hex(digest)}"

    def _oci_blob(self, told: Mapping[str, Any]) -> None:
        self.progress(f"blob {told['digest'][7:19]}")
        with (
            self._open(self._oci_path(told["digest"])) as file,
            self.store.blobs.writing(told["digest"]) as blob,
        ):
            while chunk := file.read(1 << 20):
                blob.write(chunk)


def _words(told: Mapping[str, Any], key: str) -> list[str]:
    found = told.get(key) or []
    if not isinstance(found, list) or not all(isinstance(word, str) for word in found):
        raise BadData("cannot load the archive", "manifest.json", f"`{key}` is no list of words")
    return found


def _familiar(name: str) -> str:
    """A name as the archive says it; one that is out of our grammar becomes no name."""
    try:
        return reference.parse(name).tagged if name else ""
    except Usage:
        return ""
