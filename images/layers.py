"""Unpacked layers: one directory a chain id, made once, shared by all images and instances that have it.

`layers/HEX/root` is the tree in overlayfs' form and `layers/HEX/layer.json` what it was made of. HEX is half
of the chain id: mount(2) takes one page of options, so short paths let overlayfs stack more layers.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from host import records
from host.errors import BadData
from host.typing import BinaryIO, NamedTuple
from images.blobs import Blobs, new_sha256, sha256

TAR = "application/vnd.oci.image.layer.v1.tar"
TAR_GZIP = TAR + "+gzip"
TAR_ZSTD = TAR + "+zstd"
_DOCKER = "application/vnd.docker.image.rootfs.diff.tar"
MEDIA_TYPES = {TAR, TAR_GZIP, TAR_ZSTD, _DOCKER, _DOCKER + ".gzip", _DOCKER + ".zstd"}
# gzip packs zeros 1032:1 at best; a layer that grows beyond both is a bomb, whatever it says it is.
MAX_GROWTH = 250
FREE_GROWTH_BYTES = 512 << 20


class Layer(NamedTuple):
    """One layer of an image: its blob, and the ids of its tar alone and on top of the layers below."""

    digest: str
    size: int
    media_type: str
    diff_id: str
    chain_id: str


def chain_ids(diff_ids: Sequence[str]) -> list[str]:
    """The chain ids of a stack of layers, bottom first (OCI image-spec v1.1, config.md, "Layer ChainID")."""
    chain: list[str] = []
    for diff_id in diff_ids:
        chain.append(sha256(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return chain


_DURABLE = "layer.json"
# Below this a layer is not flushed to the disk: unpacking it again after a crash costs less than each flush.
_SMALL_BYTES = 16 << 20
_boot = ""


def _of_this_boot() -> str:
    """The record's name of a layer that only the page cache may hold: it counts until the next boot."""
    global _boot
    if not _boot:
        with open("/proc/sys/kernel/random/boot_id") as file:
            _boot = f"layer.{file.read(8)}.json"
    return _boot


class Layers:
    """The unpacked layers in a directory."""

    def __init__(self, directory: Path, staging: Path) -> None:
        self.directory, self.staging = directory, staging

    def folder(self, chain_id: str) -> Path:
        """The folder of a chain id, whether it is there or not."""
        return self.directory / chain_id.removeprefix("sha256:")[:32]

    def root(self, chain_id: str) -> Path:
        """Where the unpacked tree lies."""
        return self.folder(chain_id) / "root"

    def has(self, chain_id: str) -> bool:
        """Whether the layer is unpacked, and surely whole."""
        return self._record_path(self.folder(chain_id)) is not None

    def _record_path(self, folder: Path) -> Path | None:
        """The layer's record: a durable one, or one of this boot; what a crashed boot left may be torn."""
        for name in (_DURABLE, _of_this_boot()):
            if os.path.exists(f"{folder}/{name}"):
                return folder / name
        return None

    def ensure(self, blobs: Blobs, layers: Sequence[Layer]) -> tuple[Path, ...]:
        """Unpack what is not yet unpacked of a stack (bottom first); its trees, top first."""
        lowers: tuple[Path, ...] = ()
        for layer in layers:
            if not self.has(layer.chain_id):
                self._unpack(blobs, layer, lowers)
            lowers = (self.root(layer.chain_id), *lowers)
        return lowers

    def _unpack(self, blobs: Blobs, layer: Layer, lowers: tuple[Path, ...]) -> None:
        folder = self.folder(layer.chain_id)
        with records.lock(self.directory / f".{folder.name}.lock", wait_s=900):
            if self.has(layer.chain_id):
                return
            self._put_away(folder)
            with self.making() as half:
                with reading(blobs, layer) as stream:
                    from images import unpack

                    outcome = unpack.apply(stream, half / "root", lowers, f"layer {layer.digest[:19]}")
                self.keep(half, layer.chain_id, layer.diff_id, sorted(outcome.limits))

    @contextlib.contextmanager
    def making(self) -> Iterator[Path]:
        """A folder for a layer to be made in, with an empty `root`; it goes away unless it is kept."""
        half = self.staging / f"layer-{os.getpid()}-{os.urandom(6).hex()}"
        (half / "root").mkdir(parents=True)
        (half / "root").chmod(0o755)
        try:
            yield half
        finally:
            remove_tree(half)

    def keep(self, half: Path, chain_id: str, diff_id: str, limits: Sequence[str] = ()) -> None:
        """Give the half-made layer its place, where another command has not done so meanwhile."""
        size = used_bytes(half / "root")
        record = {"chain_id": chain_id, "diff_id": diff_id, "limits": list(limits), "bytes": size}
        if size > _SMALL_BYTES:
            os.sync()  # one sync for thousands of files: what is there after a crash is there as a whole
        name = _DURABLE if size > _SMALL_BYTES else _of_this_boot()
        records.write(half / name, record, durable=size > _SMALL_BYTES)
        with contextlib.suppress(FileExistsError):
            _rename_new(half, self.folder(chain_id))

    def record(self, chain_id: str) -> records.Record:
        """What is known of an unpacked layer: chain_id, diff_id, bytes, limits."""
        path = self._record_path(self.folder(chain_id))
        return records.read(path or self.folder(chain_id) / _DURABLE)

    def chains(self) -> dict[str, str]:
        """The unpacked layers: folder name -> chain id; an empty chain id where the record is missing."""
        found: dict[str, str] = {}
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self.directory):
                if not name.startswith("."):
                    with contextlib.suppress(FileNotFoundError, BadData):
                        found[name] = ""
                        told = sorted((self.directory / name).glob("layer*.json"))
                        found[name] = records.read(told[0])["chain_id"] if told else ""
        return found

    def remove(self, name: str) -> None:
        """Remove a folder of `chains`."""
        self._put_away(self.directory / name)
        (self.directory / f".{name}.lock").unlink(missing_ok=True)

    def _put_away(self, folder: Path) -> None:
        """Remove a folder if it is there; renamed away first, so that nobody meets half of it."""
        half = self.staging / f"gone-{os.getpid()}-{os.urandom(6).hex()}"
        with contextlib.suppress(FileNotFoundError):
            os.rename(folder, half)
            remove_tree(half)


def _rename_new(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.rename(source, target)
    except OSError:
        if not target.is_dir():
            raise


@contextlib.contextmanager
def reading(blobs: Blobs, layer: Layer) -> Iterator[BinaryIO]:
    """The layer's tar, unpacked while it is read; size, digest and diff id are checked when it has been read.

    Raises BadData when the blob is not what the manifest says: nothing of it may be used then.
    """
    from images.compression import decompressed  # not on the way of a start

    with blobs.open(layer.digest) as file:
        checked = _Checked(file, layer.size)
        plain = Plain(decompressed(checked), layer)
        yield plain  # type: ignore[misc]
        plain.drain()
        checked.drain()
    if checked.count != layer.size:
        raise BadData("cannot use the layer", layer.digest, f"it has {checked.count} bytes, not {layer.size}")
    if f"sha256:{checked.hash.hexdigest()}" != layer.digest:
        raise BadData(
            "cannot use the layer", layer.digest, "its content has another digest", "vmm image verify"
        )
    if f"sha256:{plain.hash.hexdigest()}" != layer.diff_id:
        raise BadData("cannot use the layer", layer.digest, f"its tar is not the diff id {layer.diff_id}")


class _Checked:
    """Counts and digests a file as it is read, never past the size that was told."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self.size, self.count, self.hash = file, size, 0, new_sha256()

    def read(self, size: int = -1) -> bytes:
        left = self.size + 1 - self.count
        data = self._file.read(left if size < 0 else min(size, left))
        self.count += len(data)
        self.hash.update(data)
        return data

    def drain(self) -> None:
        while self.read(1 << 20):
            pass


class Plain:
    """The plain tar of a layer: digests it as it is read, and stops what grows without end."""

    def __init__(self, stream: BinaryIO, layer: Layer) -> None:
        self._stream, self._layer, self.count, self.hash = stream, layer, 0, new_sha256()
        self._most = max(FREE_GROWTH_BYTES, MAX_GROWTH * layer.size)

    def read(self, size: int = -1) -> bytes:
        """Read from the tar; BadData when it is a bomb or its compression is broken."""
        import zlib

        try:
            data = self._stream.read(size if size >= 0 else 1 << 20)
        except (OSError, EOFError, zlib.error) as error:
            raise BadData(
                "cannot use the layer", self._layer.digest, f"cannot decompress it: {error}"
            ) from None
        self.count += len(data)
        if self.count > self._most:
            why = f"{self._layer.size} bytes grew to more than {self._most}: a decompression bomb"
            raise BadData("cannot use the layer", self._layer.digest, why)
        self.hash.update(data)
        return data

    def drain(self) -> None:
        """Read what the archive's reader left: the padding after its end belongs to the diff id."""
        while self.read(1 << 20):
            pass


def used_bytes(tree: Path) -> int:
    """The bytes that a tree occupies on disk (blocks of 512), a file with several names counted once."""
    total, seen = 0, set()
    for base, names, files in os.walk(tree):
        for name in (*names, *files):
            status = os.lstat(os.path.join(base, name))
            if status.st_nlink == 1 or status.st_ino not in seen:
                total += status.st_blocks * 512
                if status.st_nlink > 1:
                    seen.add(status.st_ino)
    return total


def remove_tree(tree: Path) -> None:
    """Remove a tree whatever modes its directories have; nothing to remove is no error."""
    if not tree.exists():
        return
    if os.geteuid() != 0:
        for base, names, _ in os.walk(tree):
            for name in names:
                path = os.path.join(base, name)
                if not os.path.islink(path):
                    os.chmod(path, 0o700)
    import shutil

    shutil.rmtree(tree, ignore_errors=True)
