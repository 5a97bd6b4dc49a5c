"""The base image `loads`: tiny with the field's own load generators, each file as its Debian package has it.

The same binaries and libraries then run in a chroot, a container and a machine. Only what the dynamic loader
asks for is taken (ld.so(8), --list): a tenth of what the packages' dependencies hold.
"""

from __future__ import annotations

import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from host import commands
from host.errors import BadData, CommandFailed, HostUnfit
from images import config as configs
from images import tiny
from images.pack import pack_tree
from images.store import Image, Store

PROGRAMS = {
    "fio": "usr/bin/fio", "sysbench": "usr/bin/sysbench", "stress-ng": "usr/bin/stress-ng",
    "iperf3": "usr/bin/iperf3", "sockperf": "usr/bin/sockperf",
}  # fmt: skip
_WHAT = "cannot make the image loads"
_HINT = "apt-get update, and Debian's main archive among apt's sources"


def build(store: Store, progress: Callable[[str], None]) -> Image:
    """Make the image and store it as `loads:latest`; needs apt and no privilege. HostUnfit without them."""
    base = tiny.build(store, progress)
    with store.using(), tempfile.TemporaryDirectory(prefix="loads-", dir=store.staging) as half:
        packages, tree = Path(half, "packages"), Path(half, "packages", "tree")
        progress(f"loads: fetching {', '.join(PROGRAMS)} and what they depend on")
        _unpack(packages, tree)
        progress("loads: taking the programs and the libraries that they load")
        layer = Path(half, "layer")
        for name in sorted(_wanted(tree)):
            _take(tree, name, layer)
        packed = pack_tree(store.blobs, layer, _settle)
        document = _document(store, base, packed.diff_id)
        layers = [*store.manifest(base.digest)["layers"], packed.descriptor]
        image = store.add(document, layers, "loads")
    store.lower_dirs(image)
    progress(f"loads: {image.digest}")
    return image


def _unpack(folder: Path, tree: Path) -> None:
    """All packages that the programs depend on, as for a system that has none yet."""
    (folder / "partial").mkdir(parents=True)
    (folder / "status").touch()
    options = {"Dir::State::status": folder / "status", "Dir::Cache::archives": folder,
               "APT::Sandbox::User": "root", "Debug::NoLocking": "1"}  # fmt: skip
    argv = ["apt-get", "-qq", "--yes", "--download-only", "--no-install-recommends"]
    argv += [f"-o{name}={value}" for name, value in options.items()]
    try:
        commands.run([*argv, "install", *PROGRAMS], _WHAT, timeout_s=600)
    except CommandFailed as error:
        raise HostUnfit(_WHAT, why=error.log, hint=_HINT) from None
    for package in sorted(folder.glob("*.deb")):
        commands.run(["dpkg-deb", "-x", str(package), str(tree)], _WHAT, timeout_s=120)


def _wanted(tree: Path) -> Iterator[str]:
    """Names in the tree of the programs, the loader that they ask for, and every library."""
    loader = next(tree.glob("lib/*/ld-linux-*.so.*"), None)
    if loader is None:
        raise BadData(_WHAT, "libc6", "it holds no dynamic loader")
    folders = sorted({str(path.parent) for path in tree.glob("**/lib*.so.*")})
    for program in PROGRAMS.values():
        yield program
        argv = [str(loader), "--library-path", ":".join(folders), "--list", str(tree / program)]
        told = commands.run(argv, _WHAT, timeout_s=60).decode()
        for found in re.findall(rf"=> {re.escape(str(tree))}/(\S+)", told):
            yield str(found)
    yield from (str(path.relative_to(tree)) for path in tree.glob("lib64/ld-linux-*"))


def _take(tree: Path, name: str, layer: Path) -> None:
    """Copy the file that a name stands for; links in the packages point out of the tree."""
    source = tree / name
    while source.is_symlink():
        to = source.readlink()
        source = tree / str(to).lstrip("/") if to.is_absolute() else source.parent / to
    target = layer / name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _settle(member: tarfile.TarInfo) -> None:
    """Root owns everything, and the time is that of the epoch: the digest depends on the packages alone."""
    member.uid = member.gid = member.mtime = 0
    member.mode = 0o755
    member.pax_headers = {}


def _document(store: Store, base: Image, diff_id: str) -> dict[str, Any]:
    document = store.document(base.digest)
    step = {"created": document["created"], "created_by": "vmm image build --base loads"}
    return {
        **document,
        "architecture": configs.host_architecture(),
        "rootfs": {"type": "layers", "diff_ids": [*document["rootfs"]["diff_ids"], diff_id]},
        "history": [*document["history"], step],
    }
