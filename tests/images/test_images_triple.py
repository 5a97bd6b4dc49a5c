"""Disks as images, started as machines: one boots by itself, one came with kernel and ramdisk."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from capabilities import need
from commandline import CommandLine

from images import bootable, disks, kernels
from images.store import Store

pytestmark = [pytest.mark.machine, pytest.mark.slow, pytest.mark.timeout(300)]
MARK = "Please press Enter"


def says(vmm: CommandLine, name: str, words: str) -> bool:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if words in vmm.ok("logs", name):
            return True
        time.sleep(1)
    return False


@pytest.fixture
def vmm(home: Path) -> CommandLine:
    need("root", "qemu", "kernel", "busybox", "syslinux")
    vmm = CommandLine(home)
    vmm.ok("image", "build", "-q", "--base", "tiny")
    return vmm


def test_a_disk_with_its_own_kernel_starts_by_it(vmm: CommandLine, home: Path, tmp_path: Path) -> None:
    store = Store(home)
    image = store.resolve("tiny")
    disk, kernel, ramdisk = (str(tmp_path / name) for name in ("disk", "kernel", "ramdisk"))
    disks.convert(disks.base(store, image), Path(disk), "raw", source_format="qcow2")
    debian = kernels.guest_kernel(home, "generic")
    Path(kernel).write_bytes(debian.bzimage.read_bytes())
    Path(ramdisk).write_bytes(bootable.initrd(debian, tmp_path, image.config, disks.uuid_of(image.digest)))
    vmm.ok("image", "import", "--raw", "--kernel", kernel, "--ramdisk", ramdisk, disk, "triple:1")
    vmm.ok("run", "-d", "--vm", "--name", "m", "triple:1")
    try:
        assert says(vmm, "m", MARK)
    finally:
        vmm.ok("rm", "-f", "m")


def test_an_imported_disk_boots_by_its_own_loader(vmm: CommandLine, tmp_path: Path) -> None:
    disk = str(tmp_path / "disk.vmdk")
    vmm.ok("image", "convert", "tiny", "--format", "vmdk", "--bootable", "-o", disk, timeout_s=120)
    vmm.ok("image", "import", disk, "cloud:1")
    vmm.ok("run", "-d", "--vm", "--name", "m", "cloud:1")
    try:
        assert says(vmm, "m", MARK)
    finally:
        vmm.ok("rm", "-f", "m")
    refused = vmm.run("run", "--rm", "--vm", "cloud:1", "echo", "hi")
    assert refused.returncode == 125
    assert "it is a disk, which boots itself" in refused.stderr
