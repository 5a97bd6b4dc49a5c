"""Guest kernels: fetched once, unpacked exactly, whole after a kill; and the initramfs made of them."""

import gzip
import lzma
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import pytest
from capabilities import need

from host.errors import BadData, HostUnfit, NotFound, Unsupported, Usage
from images import initrds, kernels


def bzimage(payload: bytes, elf: bytes) -> bytes:
    """A file with the header that boot.rst describes, around a compressed ELF."""
    head = bytearray(0x400)
    head[0x1F1] = 1
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<HI", head, 0x206, 0x20F, 0)
    struct.pack_into("<H", head, 0x20E, 0x100)
    head[0x300:0x310] = b"6.1.0-test (a) b"
    struct.pack_into("<II", head, 0x248, 64, len(payload) + 4)
    return bytes(head) + bytes(64) + payload + struct.pack("<I", len(elf))


ELF = b"\x7fELF" + bytes(range(256)) * 40


@pytest.mark.parametrize(
    "pack",
    [lzma.compress, gzip.compress, lambda data: lzma.compress(data, lzma.FORMAT_ALONE)],
    ids=["xz", "gzip", "lzma"],
)
def test_the_elf_comes_out_of_a_bzimage(pack: "object") -> None:
    assert kernels.extract_vmlinux(bzimage(pack(ELF), ELF)) == ELF  # type: ignore[operator]


@pytest.mark.parametrize("program", ["zstd", "lz4"])
def test_the_elf_comes_out_by_a_program(program: str) -> None:
    need("kernel")
    words = [program, "-c"] if program == "zstd" else [program, "-l", "-c"]
    packed = subprocess.run(words, input=ELF, capture_output=True, check=True).stdout
    assert kernels.extract_vmlinux(bzimage(packed, ELF)) == ELF


def test_what_is_no_kernel_is_told(tmp_path: Path) -> None:
    for data, why in (
        (b"nothing", "not an x86 bzImage"),
        (bzimage(b"??????", ELF), "unknown compression"),
        (bzimage(lzma.compress(ELF[:-5]), ELF), "no ELF of the promised size"),
    ):
        with pytest.raises(BadData, match=why):
            kernels.extract_vmlinux(data)
    with pytest.raises(NotFound, match="No such file"):
        kernels.guest_kernel(tmp_path, tmp_path / "nosuch")
    with pytest.raises(Usage, match="known are cloud, generic"):
        kernels.guest_kernel(tmp_path, "fast")


def test_a_kernel_of_the_users_own(tmp_path: Path) -> None:
    file = tmp_path / "bz"
    file.write_bytes(bzimage(lzma.compress(ELF), ELF))
    found = kernels.guest_kernel(tmp_path / "home", file)
    assert (found.version, found.vmlinux.read_bytes(), found.modules) == ("6.1.0-test", ELF, None)
    assert kernels.guest_kernel(tmp_path / "home", file) == found


def test_no_package_is_told_with_what_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("kernel")
    monkeypatch.setitem(kernels.FLAVOURS, "cloud", "linux-image-of-nobody-{arch}")
    with pytest.raises(HostUnfit) as told:
        kernels.guest_kernel(tmp_path, "cloud")
    assert "apt-get update" in told.value.hint


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("kernel")
    return tmp_path_factory.mktemp("kernels")


def test_the_cloud_kernel(home: Path) -> None:
    found = kernels.guest_kernel(home, "cloud")
    assert found.vmlinux.read_bytes()[:4] == b"\x7fELF"
    assert "cloud" in found.version
    began = time.monotonic()
    assert kernels.guest_kernel(home, "cloud") == found
    assert time.monotonic() - began < 0.05
    assert not list((home / "cache" / "kernels").glob(".half-*"))


def test_two_at_once_fetch_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("kernel")
    fetched: list[str] = []
    original = kernels._unpacked
    monkeypatch.setattr(
        kernels, "_unpacked", lambda package, *more: (fetched.append(package), original(package, *more))[1]
    )
    both = [threading.Thread(target=kernels.guest_kernel, args=(tmp_path, "cloud")) for _ in "12"]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert len(fetched) == 1


@pytest.mark.slow
def test_killed_at_any_moment_it_is_whole_the_next_time(tmp_path: Path) -> None:
    need("kernel")
    script = "import sys; from pathlib import Path; from images import kernels; "
    script += "kernels.guest_kernel(Path(sys.argv[1]), 'cloud')"
    for delay_s in (0.5, 1.5, 2.5):
        one = subprocess.Popen([sys.executable, "-c", script, tmp_path], start_new_session=True)
        time.sleep(delay_s)
        os.killpg(one.pid, signal.SIGKILL)
        one.wait()
    found = kernels.guest_kernel(tmp_path, "cloud")
    assert found.vmlinux.stat().st_size > 10 << 20


def test_modules_come_after_what_they_need(home: Path) -> None:
    kernel = kernels.guest_kernel(home, "cloud")
    names = [
        file.name.split(".")[0] for file in initrds.resolve(kernel, ("virtio_blk", "virtio_net", "ext4"))
    ]
    assert names.index("virtio_ring") < names.index("virtio_blk")
    assert names.index("net_failover") < names.index("virtio_net")
    assert len(names) == len(set(names))
    assert "ext4" not in names  # built in
    with pytest.raises(Unsupported, match="needs the module 9p"):
        initrds.resolve(kernel, ("9p",))


def test_the_initramfs_is_what_cpio_reads_and_always_the_same(home: Path, tmp_path: Path) -> None:
    kernel = kernels.guest_kernel(home, "cloud")
    helper = tmp_path / "helper"
    helper.write_bytes(b"a helper of odd length")
    path = initrds.initrd(home, kernel, helper, ("virtio_pci", "virtio_blk"))
    data = path.read_bytes()
    members = read_newc(data)
    assert members["init"] == (0o100755, helper.read_bytes())
    order = members["modules/order"][1].decode().splitlines()
    assert [f"/{name}" for name in members if name.endswith(".ko")] == order
    path.unlink()
    assert initrds.initrd(home, kernel, helper, ("virtio_pci", "virtio_blk")).read_bytes() == data
    helper.write_bytes(b"another helper")
    assert initrds.initrd(home, kernel, helper, ("virtio_pci", "virtio_blk")) != path


def read_newc(data: bytes) -> dict[str, tuple[int, bytes]]:
    """The members of a newc archive: mode and bytes, by an independent reading of the format."""
    members, at = {}, 0
    while True:
        assert data[at : at + 6] == b"070701"
        numbers = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, length = numbers[1], numbers[6], numbers[11]
        name = data[at + 110 : at + 109 + length].decode()
        begin = (at + 110 + length + 3) // 4 * 4
        if name == "TRAILER!!!":
            return members
        members[name] = (mode, data[begin : begin + size])
        at = (begin + size + 3) // 4 * 4


@pytest.mark.parametrize("suffix", [".ko", ".ko.xz", ".ko.gz", ".ko.zst"])
def test_modules_are_uncompressed(tmp_path: Path, suffix: str) -> None:
    data = b"\x7fELF module" + zlib.compress(b"x" * 100)
    path = tmp_path / f"virtio-blk{suffix}"
    match suffix:
        case ".ko.xz":
            path.write_bytes(lzma.compress(data))
        case ".ko.gz":
            path.write_bytes(gzip.compress(data))
        case ".ko.zst":
            path.write_bytes(
                subprocess.run(["zstd", "-c"], input=data, capture_output=True, check=True).stdout
            )
        case _:
            path.write_bytes(data)
    assert initrds.read_module(path) == data
    assert initrds.plain_name(path.name) == "virtio-blk.ko"
