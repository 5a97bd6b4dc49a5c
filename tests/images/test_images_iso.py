"""ISOs: imported by content, booted as a disc by BIOS and UEFI, by both drivers."""

from __future__ import annotations

import io
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pycdlib
import pytest
from capabilities import need
from commandline import CommandLine

from host.errors import BadData, Usage
from images import at_hand, importing, initrds, iso, kernels, tiny
from images.store import Store

_INIT = """#!/bin/busybox sh
/bin/busybox mount -t sysfs sys /sys
for module in $(/bin/busybox cat /modules/order); do /bin/busybox insmod "$module"; done
firmware=bios; [ -d /sys/firmware/efi ] && firmware=uefi
echo "the disc booted by $firmware, disk of $(/bin/busybox cat /sys/class/block/vda/size) sectors"
/bin/busybox poweroff -f
"""
_MENU = """serial --unit=0 --speed=115200
terminal_output serial
linux /vmlinuz console=ttyS0 quiet no_timer_check panic=-1
initrd /initrd
boot
"""


def disc(path: Path, *platforms: str) -> Path:
    """A small ISO with a boot record for each platform; what it would boot is one sector of nothing."""
    made = pycdlib.PyCdlib()
    made.new()
    for number, platform in enumerate(platforms):
        made.add_fp(io.BytesIO(bytes(2048)), 2048, f"/B{number}.;1")
        made.add_eltorito(f"/B{number}.;1", "/CAT.;1", efi=platform == "uefi", platform_id=0)
    made.write(str(path))
    made.close()
    return path


def wish(path: Path) -> importing.Wish:
    return importing.Wish(source=str(path), name="disc:1")


@pytest.mark.parametrize("platforms", [("bios",), ("bios", "uefi")])
def test_the_boot_record_tells_the_firmware(tmp_path: Path, platforms: tuple[str, ...]) -> None:
    path = disc(tmp_path / "no-suffix", *platforms)
    assert iso.is_iso(path)
    assert iso.boots(path) == platforms


def test_an_imported_iso_stays_as_it_is(store: Store, tmp_path: Path) -> None:
    path = disc(tmp_path / "disc", "bios")
    image = importing.run(store, wish(path), lambda _line: None)
    assert image.cdrom
    assert image.config.labels["vmm.boots"] == "bios"
    assert store.blobs.path(image.disk).read_bytes() == path.read_bytes()


def test_a_disc_without_a_boot_record_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(BadData, match="no boot record"):
        importing.run(store, wish(disc(tmp_path / "data")), lambda _line: None)
    assert store.images() == []


def test_a_damaged_boot_catalogue_is_refused(store: Store, tmp_path: Path) -> None:
    path = disc(tmp_path / "disc", "bios")
    data = bytearray(path.read_bytes())
    at = int.from_bytes(data[17 * 2048 + 0x47 :][:4], "little") * 2048
    data[at + 4] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadData, match="catalogue is damaged"):
        importing.run(store, wish(path), lambda _line: None)
    path.write_bytes(data[: 18 * 2048])
    with pytest.raises(BadData, match="catalogue is damaged"):
        importing.run(store, wish(path), lambda _line: None)


def test_a_kernel_beside_an_iso_is_refused(store: Store, tmp_path: Path) -> None:
    path = disc(tmp_path / "disc", "bios")
    with pytest.raises(Usage, match="boots itself"):
        importing.run(store, replace(wish(path), kernel=path), lambda _line: None)


def test_what_a_disc_cannot_do_is_told(home: Path, tmp_path: Path) -> None:
    need("qemu")
    vmm, path = CommandLine(home), disc(tmp_path / "disc", "bios")
    vmm.ok("image", "import", "-q", str(path), "disc:1")
    for words, why in (
        (("--vm", "--boot", "uefi", "disc:1"), "its boot record is for bios only"),
        (("--vm", "disc:1", "echo", "hi"), "it is a disk, which boots itself"),
        (("--ct", "disc:1"), "it is a disk, without layers"),
    ):
        refused = vmm.run("run", "--rm", *words)
        assert refused.returncode == 125
        assert why in refused.stderr
    assert "ide-cd" in vmm.ok("run", "--dry-run", "--vm", "--driver", "qemu", "disc:1")
    assert vmm.ls() == {}


@pytest.fixture(scope="module")
def bootable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disc with GRUB for both firmwares, a kernel, and an init that says a word and powers off."""
    need("qemu", "kernel", "busybox", "grub")
    folder = tmp_path_factory.mktemp("disc")
    tree, menu = folder / "tree", folder / "tree" / "boot" / "grub"
    menu.mkdir(parents=True)
    kernel = kernels.guest_kernel(folder, "cloud")
    (tree / "vmlinuz").write_bytes(kernel.bzimage.read_bytes())
    (tree / "initrd").write_bytes(_initrd(kernel, folder))
    (menu / "grub.cfg").write_text(_MENU)
    made = folder / "disc.iso"
    subprocess.run(["grub-mkrescue", "-o", made, tree], check=True, capture_output=True)
    return made


def _initrd(kernel: at_hand.GuestKernel, folder: Path) -> bytes:
    modules = initrds.resolve(kernel, ["virtio_pci", "virtio_blk"])
    order = "".join(f"/modules/{initrds.plain_name(one.name)}\n" for one in modules)
    return b"".join(
        [
            *(initrds.entry(name, b"", 0o040755) for name in ("bin", "sys", "modules", "dev")),
            initrds.entry("dev/console", b"", 0o020600, device=(5, 1)),
            initrds.entry("bin/busybox", tiny.static_busybox(folder).read_bytes(), 0o100755),
            initrds.entry("init", _INIT.encode(), 0o100755),
            initrds.entry("modules/order", order.encode(), 0o100644),
            *(
                initrds.entry(f"modules/{initrds.plain_name(one.name)}", initrds.read_module(one), 0o100644)
                for one in modules
            ),
            initrds.entry("TRAILER!!!", b"", 0),
        ]
    )


@pytest.fixture
def open_home(home: Path) -> Path:
    """A home whose folders QEMU's own user may pass: pytest's are closed to it."""
    for folder in home.parents:
        if folder.owner() == "root" and str(folder).startswith("/tmp/pytest"):
            folder.chmod(folder.stat().st_mode | 0o011)
    return home


def said(vmm: CommandLine, name: str, words: str) -> bool:
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline:
        if words in vmm.ok("logs", name):
            return True
        time.sleep(1)
    return False


@pytest.mark.machine
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("firmware", "driver", "disk"),
    [
        ("bios", "qemu", ()),
        pytest.param("uefi", "qemu", ("--disk", "8M"), marks=pytest.mark.slow),
        pytest.param("bios", "libvirt", ("--disk", "8M"), marks=pytest.mark.slow),
        pytest.param("uefi", "libvirt", (), marks=pytest.mark.slow),
    ],
)
def test_a_disc_boots(
    open_home: Path, bootable: Path, firmware: str, driver: str, disk: tuple[str, ...]
) -> None:
    need("ovmf") if firmware == "uefi" else None
    need("root", "libvirt") if driver == "libvirt" else None
    vmm = CommandLine(open_home)
    vmm.ok("image", "import", "-q", str(bootable), "disc:1")
    words = ("--boot", firmware, "--driver", driver, "--network", "none", *disk)
    vmm.ok("run", "-d", "--vm", "--name", "m", *words, "disc:1", timeout_s=120)
    try:
        sectors = 8 << 11 if disk else ""
        assert said(vmm, "m", f"the disc booted by {firmware}, disk of {sectors} sectors"), vmm.ok(
            "logs", "m"
        )
        assert vmm.ok("wait", "m", timeout_s=60).strip() == "0"
    finally:
        vmm.ok("rm", "-f", "m")
