"""The images of one home: an OCI image layout in `$VMM_HOME/images`, and its layers unpacked beside it.

    oci-layout  index.json  blobs/sha256/HEX     the layout: skopeo and umoci read it as it lies
    layers/                                      unpacked layers (images.layers)
    staging/                                     what is half made: whoever comes next removes it
    lock  use.lock                               who changes the index; who adds or prunes

Source: OCI image-spec v1.1, image-layout.md.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from host import records
from host.errors import BadData, NotFound, Unsupported, from_os_error
from host.typing import Any, NamedTuple
from images import config as configs
from images import reference
from images.blobs import Blobs, encode, parse
from images.config import ImageConfig
from images.layers import MEDIA_TYPES, Layer, Layers, chain_ids

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
# A machine's disk in place of layers: what `vmm image import` makes of a cloud image.
DISK_QCOW2 = "application/vnd.vmm.disk.v1+qcow2"
# The same, as a disc in a drive: it boots, and nothing is written to it.
DISK_ISO = "application/vnd.vmm.disk.v1+iso"
# What such a disk may need to start: the triple of the aki, ari and ami that clouds once had.
KERNEL, RAMDISK = "application/vnd.vmm.kernel.v1", "application/vnd.vmm.ramdisk.v1"
REF_NAME = "org.opencontainers.image.ref.name"
CREATED = "org.opencontainers.image.created"


class Image(NamedTuple):
    """An image in the store: the name that found it, its manifest's digest, config, and layers' chain ids.

    `disk` is the digest of a whole disk, in images that have one in place of layers: machines only. `kernel`
    and `ramdisk` are digests, too, where it does not boot by itself. With `cdrom` the disk is an ISO.
    """

    name: str
    digest: str
    config: ImageConfig
    layers: tuple[str, ...]
    disk: str = ""
    kernel: str = ""
    ramdisk: str = ""
    cdrom: bool = False


class Store:
    """The images of the home directory `home` (`$VMM_HOME`); made on first use."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.root = home / "images"
        self.staging = self.root / "staging"
        self.blobs = Blobs(self.root / "blobs", self.staging)
        self.layers = Layers(self.root / "layers", self.staging)

    # reading

    def resolve(self, name: str) -> Image:
        """The image of this name, digest (`sha256:...`), or beginning of a digest (6 digits or more).

        NotFound when there is none, Usage when it is no name, BadData when the store is damaged.
        """
        return self.image(self.descriptor(name), name)

    def images(self) -> list[Image]:
        """All images that have a name, sorted by it."""
        named = [(_name(entry), entry) for entry in self._index()["manifests"] if _name(entry)]
        return [self.image(entry, name) for name, entry in sorted(named, key=lambda pair: pair[0])]

    def lower_dirs(self, image: Image) -> tuple[Path, ...]:
        """The image's unpacked layers, top first: overlayfs' lowerdir order. Unpacks on first use."""
        if image.disk:
            hint = "vmm run --vm starts it as a machine"
            raise Unsupported("cannot use the image", image.name, "it is a disk, without layers", hint)
        if image.layers and all(self.layers.has(chain) for chain in image.layers):
            return tuple(self.layers.root(chain) for chain in reversed(image.layers))
        if not image.layers:
            return (self.empty_layer(),)
        with self.using():
            return self.layers.ensure(self.blobs, self.stack(image.digest))

    def descriptor(self, name: str) -> dict[str, Any]:
        """The index entry of a name or digest."""
        entries = self._index()["manifests"]
        found = _by_digest(entries, name) if _looks_like_digest(name) else []
        if not found:
            wanted = reference.parse(name)
            found = [entry for entry in entries if _matches(entry, wanted)]
        if not found:
            hint = "`vmm image ls` lists the images; `vmm image pull` or `vmm image build` makes one"
            raise NotFound("no image", name, hint=hint)
        if len({entry["digest"] for entry in found}) > 1:
            raise NotFound("no single image", name, "several digests begin so", "give more digits")
        return found[0]

    def image(self, entry: Mapping[str, Any], name: str = "") -> Image:
        """The Image of an index entry."""
        manifest = self.manifest(entry["digest"])
        document = self.blobs.document(manifest["config"]["digest"])
        diff_ids, parts = diff_ids_of(document), parts_of(manifest)
        if not parts and len(diff_ids) != len(manifest["layers"]):
            raise BadData("cannot use the image", name, "manifest and configuration count different layers")
        shown = _name(entry) if not name or _looks_like_digest(name) else reference.parse(name).tagged
        chain = tuple(chain_ids(diff_ids))
        config, cdrom = (
            configs.from_oci(document),
            any(one.get("mediaType") == DISK_ISO for one in manifest["layers"]),
        )
        return Image(shown or entry["digest"], entry["digest"], config, chain, cdrom=cdrom, **parts)

    def manifest(self, digest: str) -> dict[str, Any]:
        """The manifest of this digest; an index in its place is refused (CVE-2021-41190)."""
        return checked_manifest(self.blobs.document(digest), digest)

    def document(self, digest: str) -> dict[str, Any]:
        """The whole image configuration that belongs to a manifest."""
        return self.blobs.document(self.manifest(digest)["config"]["digest"])

    def stack(self, digest: str) -> list[Layer]:
        """The layers of a manifest, bottom first."""
        manifest = self.manifest(digest)
        diff_ids = diff_ids_of(self.blobs.document(manifest["config"]["digest"]))
        if parts_of(manifest):
            return []
        return [
            Layer(told["digest"], told["size"], told.get("mediaType", ""), diff_id, chain_id)
            for told, diff_id, chain_id in zip(manifest["layers"], diff_ids, chain_ids(diff_ids), strict=True)
        ]

    def by_diff_id(self) -> dict[str, dict[str, Any]]:
        """The layer descriptors that are here, by their diff ids: what need not be packed again."""
        found: dict[str, dict[str, Any]] = {}
        for digest in {entry["digest"] for entry in self.entries()}:
            for layer in self.stack(digest):
                if self.blobs.has(layer.digest, layer.size):
                    told = {"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size}
                    found[layer.diff_id] = told
        return found

    # changing

    @contextlib.contextmanager
    def using(self) -> Iterator[None]:
        """Hold off `prune` while blobs are added that no entry names yet; a full disk becomes a Failure."""
        try:
            self._prepare()
            with records.lock(self.root / "use.lock", shared=True, wait_s=600):
                yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise from_os_error("cannot store the image", error, str(self.root)) from error

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until nobody adds blobs, and keep others from beginning: for prune."""
        self._prepare()
        with records.lock(self.root / "use.lock", wait_s=600):
            yield

    def add(self, document: Mapping[str, Any], layers: Sequence[Mapping[str, Any]], name: str = "") -> Image:
        """Store an image of a configuration and layer descriptors (bottom first), under a name if given."""
        body = encode(document)
        config = {"mediaType": CONFIG, "digest": self.blobs.put(body), "size": len(body)}
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": list(layers)}
        data = encode(manifest)
        return self.enter(self.blobs.put(data), len(data), name)

    def enter(self, digest: str, size: int, name: str = "", media_type: str = MANIFEST) -> Image:
        """Enter a manifest that is among the blobs into the index.

        The name is taken from whoever had it: an image without a name stays until `prune`, for its instances.
        """
        entry: dict[str, Any] = {"mediaType": media_type, "digest": digest, "size": size}
        image = self.image(entry, name)
        with self.changing() as entries:
            if name:
                take_name(entries, reference.parse(name).tagged)
                entry["annotations"] = {REF_NAME: reference.parse(name).tagged}
            if name or not any(e["digest"] == digest for e in entries):
                entries[:] = [e for e in entries if e["digest"] != digest or _name(e)]
                entries.append(entry)
        return image

    def tag(self, source: str, name: str) -> Image:
        """Give an image one more name."""
        entry = self.descriptor(source)
        return self.enter(entry["digest"], entry["size"], name, entry["mediaType"])

    def untag(self, name: str, keep: bool = False) -> str:
        """Take the name from an image, given a digest all its names; its digest.

        The image goes with its last name, unless `keep` leaves it as one without a name.
        """
        entry = self.descriptor(name)
        digest, whole = entry["digest"], _looks_like_digest(name)
        with self.changing() as entries:
            entries[:] = [
                e for e in entries if e["digest"] != digest or not (whole or _name(e) == _name(entry))
            ]
            if keep and not any(e["digest"] == digest for e in entries):
                entries.append({key: value for key, value in entry.items() if key != "annotations"})
        return str(digest)

    def names(self, digest: str) -> list[str]:
        """The names of an image, sorted."""
        return sorted(_name(e) for e in self.entries() if e["digest"] == digest and _name(e))

    def name_of(self, entry: Mapping[str, Any]) -> str:
        """The name in an index entry, empty where it has none."""
        return _name(entry)

    def entries(self) -> list[dict[str, Any]]:
        """The index entries, those without a name too."""
        return list(self._index()["manifests"])

    @contextlib.contextmanager
    def changing(self) -> Iterator[list[dict[str, Any]]]:
        """The index entries to change in place, under the lock; written whole at the end."""
        self._prepare()
        with records.lock(self.root / "lock"):
            index = self._index()
            yield index["manifests"]
            records.write_bytes(self.root / "index.json", encode(index))

    def _prepare(self) -> None:
        if not (self.root / "oci-layout").exists():
            for directory in (self.root / "blobs" / "sha256", self.staging, self.layers.directory):
                directory.mkdir(parents=True, exist_ok=True)
            records.write_bytes(self.root / "oci-layout", encode({"imageLayoutVersion": "1.0.0"}))
        self.staging.mkdir(exist_ok=True)

    def _index(self) -> dict[str, Any]:
        try:
            data = (self.root / "index.json").read_bytes()
        except FileNotFoundError:
            return {"schemaVersion": 2, "mediaType": INDEX, "manifests": []}
        index = parse(data, str(self.root / "index.json"))
        if not isinstance(index.get("manifests"), list):
            raise BadData(
                "cannot read the image index", str(self.root / "index.json"), "it lists no manifests"
            )
        return index

    def empty_layer(self) -> Path:
        """An empty directory that stands for the layers of an image that has none."""
        root = self.root / "layers" / ".empty"
        root.mkdir(parents=True, exist_ok=True)
        return root


def checked_manifest(document: dict[str, Any], digest: str) -> dict[str, Any]:
    """The document if it is an image manifest and nothing else; BadData otherwise."""
    told = document.get("mediaType", MANIFEST)
    if "manifests" in document or told not in (MANIFEST, DOCKER_MANIFEST):
        raise BadData("cannot use the manifest", digest, f"its content is no image manifest ({told})")
    config, layers = document.get("config"), document.get("layers")
    if not isinstance(config, dict) or not isinstance(layers, list):
        raise BadData("cannot use the manifest", digest, "it names no config or no layers")
    for descriptor in (config, *layers):
        check_descriptor(descriptor, digest)
    for layer in layers:
        if layer.get("mediaType") not in MEDIA_TYPES | _PARTS.keys():
            raise BadData(
                "cannot use the manifest", digest, f"a layer of media type {layer.get('mediaType')!r}"
            )
    return document


_PARTS = {DISK_QCOW2: "disk", DISK_ISO: "disk", KERNEL: "kernel", RAMDISK: "ramdisk"}


def parts_of(manifest: Mapping[str, Any]) -> dict[str, str]:
    """The digests of `disk` (and `kernel`, `ramdisk`) of an image that is one; empty where it has layers."""
    found = {
        _PARTS[one["mediaType"]]: str(one["digest"])
        for one in manifest["layers"]
        if one["mediaType"] in _PARTS
    }
    return found if "disk" in found and len(found) == len(manifest["layers"]) else {}


def check_descriptor(descriptor: Any, owner: str) -> None:
    """BadData unless it is an object with a sha256 digest and a size."""
    if not isinstance(descriptor, dict):
        raise BadData("cannot use the manifest", owner, "a descriptor is no object")
    digest, size = descriptor.get("digest"), descriptor.get("size")
    if not isinstance(digest, str) or not reference.is_digest(digest):
        raise BadData("cannot use the manifest", owner, f"{digest!r} is no sha256 digest")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise BadData("cannot use the manifest", owner, f"{size!r} is no size")
    if not isinstance(descriptor.get("mediaType", ""), str):
        raise BadData("cannot use the manifest", owner, f"{descriptor['mediaType']!r} is no media type")


def listed(index: Mapping[str, Any], owner: str) -> list[dict[str, Any]]:
    """The descriptors of an index; BadData unless each is one, with words for what is said beside it."""
    entries = index.get("manifests")
    if not isinstance(entries, list):
        raise BadData("cannot use the index", owner, "it lists no manifests")
    for entry in entries:
        check_descriptor(entry, owner)
        for key, words in (("annotations", entry.get("annotations")), ("platform", entry.get("platform"))):
            if not isinstance(words or {}, dict):
                raise BadData("cannot use the index", owner, f"`{key}` is no object")
    return entries


def diff_ids_of(document: Mapping[str, Any]) -> list[str]:
    """The diff ids in an image configuration, bottom first."""
    rootfs = document.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(diff_ids, list) or not all(
        isinstance(d, str) and reference.is_digest(d) for d in diff_ids
    ):
        raise BadData("cannot use the image configuration", why="it names no layers (rootfs.diff_ids)")
    return diff_ids


def _name(entry: Mapping[str, Any]) -> str:
    return str((entry.get("annotations") or {}).get(REF_NAME, ""))


def _looks_like_digest(name: str) -> bool:
    digits = name.removeprefix("sha256:")
    return 6 <= len(digits) <= 64 and all(c in "0123456789abcdef" for c in digits)


def _by_digest(entries: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    wanted = "sha256:" + name.removeprefix("sha256:")
    return [entry for entry in entries if entry["digest"].startswith(wanted)]


def _matches(entry: Mapping[str, Any], wanted: reference.Reference) -> bool:
    if wanted.digest and entry["digest"] != wanted.digest:
        return False
    if wanted.tag:
        return _name(entry) == wanted.tagged
    return reference.parse(_name(entry) or "x").repository == wanted.repository


def take_name(entries: list[dict[str, Any]], name: str) -> None:
    """Make the name free; an image that had no other one stays as an entry without a name."""
    for entry in [e for e in entries if _name(e) == name]:
        entries.remove(entry)
        if not any(e["digest"] == entry["digest"] for e in entries):
            entries.append({key: value for key, value in entry.items() if key != "annotations"})


def now_unix_s() -> int:
    """The time that goes into images: SOURCE_DATE_EPOCH if set (reproducible-builds.org), else now."""
    import time

    told = os.environ.get("SOURCE_DATE_EPOCH", "")
    return int(told) if told.isdigit() else int(time.time())


def rfc3339(unix_s: int) -> str:
    """A time as image configurations write it."""
    import time

    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix_s))
