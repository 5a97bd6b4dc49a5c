"""The base image `tiny`: one static busybox, its applets as links, and the few files that programs expect."""

from __future__ import annotations

import os
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from host.errors import BadData
from images import packages
from images.pack import pack_tree
from images.store import Image, Store

_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DIRECTORIES = {
    "bin": 0o755, "dev": 0o755, "etc": 0o755, "home": 0o755, "lib": 0o755, "mnt": 0o755, "proc": 0o555,
    "root": 0o700, "run": 0o755, "sbin": 0o755, "sys": 0o555, "tmp": 0o1777, "usr": 0o755, "usr/bin": 0o755,
    "usr/sbin": 0o755, "var": 0o755, "var/log": 0o755, "var/tmp": 0o1777,
}  # fmt: skip
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    "etc/group": "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
    "etc/shadow": "root:*:19000:0:99999:7:::\nnobody:*:19000:0:99999:7:::\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n",
    "etc/hostname": "tiny\n",
    "etc/nsswitch.conf": "hosts: files dns\n",
    "etc/profile": 'PS1="\\h:\\w\\$ "\n',
    "etc/os-release": 'ID=tiny\nNAME=tiny\nPRETTY_NAME="tiny (busybox)"\n',
}

_PLACES = ("bin/busybox", "usr/bin/busybox")


def build(store: Store, progress: Callable[[str], None], machine: str = "") -> Image:
    """Make the image and store it as `tiny:latest`; needs no privilege.

    The same busybox gives the same digest. For another `machine` (uname -m) it is `tiny:MACHINE`.
    """
    machine = machine or os.uname().machine
    progress("tiny: finding a static busybox")
    with store.using(), tempfile.TemporaryDirectory(prefix="tiny-", dir=store.staging) as half:
        tree = Path(half, "root")
        busybox = static_busybox(Path(half), packages.apt(store.home, machine))
        progress("tiny: laying out the tree")
        _lay_out(tree, busybox)
        packed = pack_tree(store.blobs, tree, _settle)
        document = {
            "architecture": packages.debian_architecture(machine),
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {"Cmd": ["/bin/sh"], "Env": [_PATH]},
            "rootfs": {"type": "layers", "diff_ids": [packed.diff_id]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "vmm image build --base tiny"}],
        }
        name = "tiny" if machine == os.uname().machine else f"tiny:{machine}"
        image = store.add(document, [packed.descriptor], name)
    store.lower_dirs(image)
    progress(f"tiny: {image.digest}")
    return image


def static_busybox(scratch: Path, apt: tuple[str, ...] = ()) -> Path:
    """A statically linked busybox: the host's own, else Debian's package unpacked into `scratch`.

    `apt` are the options of another architecture's apt (`packages.apt`).
    """
    for place in () if apt else _PLACES:
        if _is_static(Path("/", place)):
            return Path("/", place)
    tree = packages.unpacked("busybox-static", scratch, apt)
    for place in _PLACES:
        if _is_static(tree / place):
            return tree / place
    raise BadData("cannot use busybox-static", why="it holds no static busybox")


def _is_static(program: Path) -> bool:
    """An ELF file without an interpreter: no PT_INTERP (3) among its program headers (elf(5))."""
    try:
        data = program.read_bytes()
    except OSError:
        return False
    if data[:5] != b"\x7fELF\x02":
        return False
    start, size, count = (int.from_bytes(data[a:b], "little") for a, b in ((32, 40), (54, 56), (56, 58)))
    types = {int.from_bytes(data[start + n * size :][:4], "little") for n in range(count)}
    return 1 in types and 3 not in types


def _lay_out(tree: Path, busybox: Path) -> None:
    for name in ("", *_DIRECTORIES):
        (tree / name).mkdir()
    for name, text in _FILES.items():
        (tree / name).write_text(text)
    program = tree / "bin" / "busybox"
    program.write_bytes(busybox.read_bytes())
    program.chmod(0o755)
    for applet in _applets(program):
        link = tree / applet
        if not link.exists() and not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            # Absolute links: the tree is read inside the instance only, and short ones fit into the inode.
            os.symlink("/bin/busybox", link)


def _applets(busybox: Path) -> list[str]:
    try:
        listed = _list_full(busybox)
    except OSError:  # of another architecture: what this host's knows, as far as the names are in it too
        with tempfile.TemporaryDirectory(prefix="busybox-") as scratch:
            listed = _list_full(static_busybox(Path(scratch)))
        names = set(busybox.read_bytes().split(b"\0"))
        listed = {path for path in listed if path.rpartition("/")[2].encode() in names}
    return sorted(listed - {"bin/busybox", "linuxrc"})


def _list_full(busybox: Path) -> set[str]:
    done = subprocess.run([busybox, "--list-full"], capture_output=True, text=True, check=True, timeout=30)
    return set(done.stdout.split())


def _settle(member: tarfile.TarInfo) -> None:
    """Root owns everything, and the time is that of the epoch: the digest depends on busybox alone."""
    member.uid = member.gid = member.mtime = 0
    member.pax_headers = {}
    name = member.name.rstrip("/")
    if member.isdir():
        member.mode = _DIRECTORIES.get(name, 0o755)
    elif member.isreg():
        member.mode = {"etc/shadow": 0o600, "bin/busybox": 0o755}.get(name, 0o644)
