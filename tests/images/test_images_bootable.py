"""Disks that boot on their own: each format by SeaBIOS and by OVMF, made without root and mounts."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from capabilities import need

from images import archives, bootable, rootfs
from images.store import Image, Store

OVMF = Path("/usr/share/OVMF")
_DEADLINE_S = 150
QUICK = {("vmdk", "seabios")}


@pytest.fixture(scope="module")
def image(tiny: Store, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Image]:
    """tiny without an init: its command says a word and ends."""
    need("qemu", "kernel", "syslinux")
    store = Store(tmp_path_factory.mktemp("bootable"))
    path = store.home / "tiny.tar"
    with path.open("wb") as sink:
        archives.save(tiny, ["tiny"], sink, "oci")
    archives.load(store, path)
    tree = store.home / "rootfs.tar"
    with tree.open("wb") as sink:
        rootfs.export(store.lower_dirs(store.resolve("tiny")), sink)
    subprocess.run(["tar", "--delete", "-f", tree, "sbin/init"], check=True)
    with tree.open("rb") as stream:
        changes = ["ENV WORD=booted", "WORKDIR /tmp", 'CMD ["sh", "-c", "echo it $WORD in $(pwd)"]']
        return store, rootfs.import_tar(store, stream, "noinit", changes)


@contextlib.contextmanager
def machine(disk: Path, disk_format: str, firmware: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    argv = [
        "qemu-system-x86_64",
        "-accel",
        "tcg",
        "-m",
        "192",
        "-display",
        "none",
        "-no-reboot",
        "-nic",
        "none",
    ]
    argv += ["-serial", f"file:{log}"]
    if firmware == "ovmf":
        shutil.copy(OVMF / "OVMF_VARS.fd", disk.parent / "vars")
        argv += ["-M", "q35", "-drive", f"if=pflash,format=raw,readonly=on,file={OVMF}/OVMF_CODE.fd"]
        argv += ["-drive", f"if=pflash,format=raw,file={disk.parent}/vars"]
    bus = "virtio" if firmware == "seabios" else "none"
    argv += ["-drive", f"file={disk},format={disk_format},if={bus},id=d"]
    argv += ["-device", "ide-hd,drive=d"] if bus == "none" else []
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def said(log: Path, word: str, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + _DEADLINE_S
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        if log.exists() and word in log.read_text(errors="replace"):
            return True
        if ended:
            return False
        time.sleep(0.2)
    return False


@pytest.mark.machine
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("disk_format", "firmware"),
    [
        pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow)
        for case in itertools.product(("raw", "qcow2", "vmdk", "vdi", "vpc"), ("seabios", "ovmf"))
    ],
)
def test_each_format_boots_by_each_firmware(
    image: tuple[Store, Image], tmp_path: Path, disk_format: str, firmware: str
) -> None:
    need("ovmf") if firmware == "ovmf" else None
    disk = bootable.make(*image, tmp_path / "disk", disk_format)
    log = tmp_path / "serial"
    with machine(disk, disk_format, firmware, log) as process:
        assert said(log, "it booted in /tmp", process), log.read_text(errors="replace")[-2000:]
        assert said(log, "Power down", process)
        process.wait(30)


def test_the_same_image_gives_the_same_disk(
    image: tuple[Store, Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    a, b = (bootable.make(*image, tmp_path / name, "raw") for name in "ab")
    tables = [subprocess.run(["sgdisk", "-p", p], capture_output=True, check=True).stdout for p in (a, b)]
    assert tables[0].replace(b"/a:", b"/b:") == tables[1]
    assert a.stat().st_blocks * 512 < 64 << 20
