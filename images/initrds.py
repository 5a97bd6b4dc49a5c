"""The initramfs of a machine: the guest helper as /init, and the modules that its root needs."""

from __future__ import annotations

import gzip
import lzma
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from host import commands, records
from host.errors import BadData, Unsupported
from images.at_hand import GuestKernel, initrd_path

# What the module asks the running kernel for by name, where only modprobe in the guest could answer.
_ASKED_FOR = {
    "ext4": ("crc32c_generic",),
    "9p": ("9pnet_virtio",),
    "virtio_net": ("failover", "net_failover"),
}
# Without these a machine runs, too: a kernel that has none of them does without.
_OPTIONAL = ("button", "evdev")
_SUFFIXES = (".ko", ".ko.xz", ".ko.gz", ".ko.zst")


def initrd(home: Path, kernel: GuestKernel, helper: Path, modules: Sequence[str]) -> Path:
    """The initramfs: `helper` as /init, and `modules` with all they depend on, in their order of loading.

    Made once per content and cached. It is not compressed: unpacking costs a guest under TCG more than
    reading. Raises Unsupported for a module that the kernel neither has nor has built in.
    """
    path = initrd_path(home, kernel, helper, modules)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        files = resolve(kernel, modules)
        records.write_bytes(path, contents(helper.read_bytes(), [(f.name, read_module(f)) for f in files]))
    return path


def contents(helper: bytes, modules: Sequence[tuple[str, bytes]]) -> bytes:
    """The cpio archive: a pure function of the helper's and the modules' bytes."""
    order = "".join(f"/modules/{plain_name(name)}\n" for name, _ in modules)
    entries = [
        entry("dev", b"", 0o040755),
        entry("dev/console", b"", 0o020600, device=(5, 1)),
        entry("root", b"", 0o040755),
        entry("modules", b"", 0o040755),
        entry("modules/order", order.encode(), 0o100644),
        *(entry(f"modules/{plain_name(name)}", data, 0o100644) for name, data in modules),
        entry("init", helper, 0o100755),
        entry("TRAILER!!!", b"", 0),
    ]
    return b"".join(entries)


def entry(name: str, data: bytes, mode: int, device: tuple[int, int] = (0, 0)) -> bytes:
    """One member of a "newc" archive (Documentation/driver-api/early-userspace/buffer-format.rst)."""
    path = name.encode() + b"\0"
    # ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
    numbers = (0, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(path), 0)
    head = b"070701" + b"".join(b"%08x" % n for n in numbers) + path
    return _padded(head) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


def plain_name(name: str) -> str:
    """`virtio_blk.ko` of `virtio-blk.ko.xz`."""
    return name.split(".ko", maxsplit=1)[0] + ".ko"


def read_module(path: Path) -> bytes:
    """A module's ELF, uncompressed: the helper hands the file to finit_module(2) as it is."""
    data = path.read_bytes()
    match path.suffix:
        case ".xz":
            return lzma.decompress(data)
        case ".gz":
            return gzip.decompress(data)
        case ".zst":
            return commands.run(["zstd", "-dc"], "cannot unpack a module", input=data)
        case _:
            return data


def resolve(kernel: GuestKernel, modules: Sequence[str]) -> list[Path]:
    """The files of `modules` and all they depend on, each after what it needs; built-in ones are left out."""
    if kernel.modules is None:
        return []
    known, built_in = _by_name(kernel.modules), _built_in(kernel.modules)
    ordered: dict[str, Path] = {}

    def add(name: str, wanted_by: str) -> None:
        name = name.replace("-", "_")
        if name in ordered or name in built_in:
            return
        if name not in known and name in _OPTIONAL:
            return
        if name not in known:
            raise _no_module(kernel, name, wanted_by)
        file = known[name]
        for needed in (*dependencies(read_module(file), str(file)), *_ASKED_FOR.get(name, ())):
            add(needed, name)
        ordered[name] = file

    for name in modules:
        add(name, "this machine")
    return list(ordered.values())


def _no_module(kernel: GuestKernel, name: str, wanted_by: str) -> Unsupported:
    why = f"{wanted_by} needs the module {name}, which it does not have"
    return Unsupported(
        "cannot use the guest kernel", kernel.version, why, "--kernel generic has more modules"
    )


def dependencies(module: bytes, name: str = "") -> list[str]:
    """The modules named by `depends=` in a module's .modinfo (what depmod(8) reads, too)."""
    if module[:4] != b"\x7fELF":
        raise BadData("cannot read the kernel module", name, "not an ELF file")
    found = re.search(rb"\0depends=([^\0]*)\0", module)
    return [word for word in found[1].decode().split(",") if word] if found else []


def _by_name(modules: Path) -> dict[str, Path]:
    return {_name(path.name): path for path in modules.rglob("*.ko*") if path.name.endswith(_SUFFIXES)}


def _built_in(modules: Path) -> set[str]:
    try:
        lines: Iterable[str] = (modules / "modules.builtin").read_text().splitlines()
    except FileNotFoundError:
        return set()
    return {_name(Path(line).name) for line in lines}


def _name(file: str) -> str:
    return file.split(".ko", maxsplit=1)[0].replace("-", "_")
