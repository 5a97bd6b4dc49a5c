"""A disk that starts on its own, by BIOS and by UEFI, on any hypervisor; made without root, without a mount.

GPT; partition 1 is the EFI system partition with kernel, initramfs, systemd-boot (UEFI) and syslinux (BIOS);
partition 2 is the image's ext4. Source: the Boot Loader Specification, syslinux' gptmbr.doc, sgdisk(8).
"""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path

from host import commands
from host.errors import HostUnfit, NotFound, Unsupported
from images import at_hand, disks, initrds, kernels, layers, tiny
from images.config import ImageConfig, host_architecture
from images.store import Image, Store

_SECTOR_BYTES = 512
_START_BYTES = 1 << 20
_ESP_BYTES = 128 << 20
_LEAST_ROOT_BYTES = 1 << 30
# What disks and networks hang on in QEMU, VirtualBox, VMware, Hyper-V and Xen; and what a seed is read with,
# on a CD or a disk, and what hears the power button: the image itself has no modules.
MODULES = (
    "virtio_pci", "virtio_blk", "virtio_scsi", "virtio_net", "ahci", "ata_piix", "ata_generic", "sd_mod",
    "nvme", "mptspi", "vmw_pvscsi", "vmxnet3", "hv_storvsc", "hv_netvsc", "xen-blkfront", "xen-netfront",
    "e1000", "e1000e", "ext4", "virtio_console", "sr_mod", "isofs", "vfat", "button", "evdev",
)  # fmt: skip
_SYSLINUX_MBR = "/usr/lib/SYSLINUX/gptmbr.bin"

# Looks for the root by its UUID: its device has another name on every kind of bus.
_INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do insmod "$module" 2>/dev/null; done
for try in $(seq 100); do
    root=$(findfs UUID={uuid} 2>/dev/null) && break
    mdev -s 2>/dev/null; sleep 0.1
done
[ -n "$root" ] || {{ echo "no disk has the root file system {uuid}"; exec sh; }}
mount -t ext4 "$root" /root || exec sh
[ -x /root{init} ] || [ -L /root{init} ] && {{
    umount /dev /sys /proc
    exec switch_root /root {init}
}}
for tree in proc sys dev; do mkdir -p /root/$tree; mount --move /$tree /root/$tree; done
ip link set lo up
for card in $(ls /root/sys/class/net | grep -v lo); do ip link set $card up; udhcpc -n -q -t 3 -i $card; done
chroot /root {command}
echo "the command ended with $?"
sync; umount -r /root; poweroff -f
"""


def make(store: Store, image: Image, target: Path, disk_format: str, size_bytes: int | None = None) -> Path:
    """Write the image as a disk of a format that boots by itself; `size_bytes` is the whole disk's size.

    An image with /sbin/init runs it; of any other, the entrypoint and command, then the machine powers off.
    HostUnfit where a tool is missing; Unsupported on another architecture than amd64.
    """
    disks.check_format(disk_format)
    if host_architecture() != "amd64":
        raise Unsupported("cannot make a bootable disk", host_architecture(), "the loaders are amd64's")
    if image.disk:
        base = disks.base(store, image)
        return disks.convert(base, target, disk_format, source_format=disks.base_format(image))
    with store.using(), tempfile.TemporaryDirectory(prefix="bootable-", dir=store.staging) as half:
        lowers = store.lower_dirs(image)
        with disks.tree(store, lowers) as root:
            size = size_bytes or _size(root)
            raw = Path(half, "disk.raw")
            uuid = disks.uuid_of(image.digest)
            _partition(raw, size, uuid)
            disks.make_ext4(
                root, raw, _root_bytes(size), image.digest, offset_bytes=_START_BYTES + _ESP_BYTES
            )
            _fill_esp(raw, Path(half), store.home, image.config, uuid)
        if disk_format == "raw":
            os.replace(raw, target) if raw.stat().st_dev == target.parent.stat().st_dev else _copy(
                raw, target
            )
        else:
            disks.convert(raw, target, disk_format, source_format="raw")
    return target


def _copy(raw: Path, target: Path) -> None:
    commands.run(["cp", "--sparse=always", str(raw), str(target)], "cannot write the disk")


def _size(root: Path) -> int:
    """Room for the files, half as much again, and a gigabyte at least."""
    content = layers.used_bytes(root)
    return _START_BYTES * 2 + _ESP_BYTES + (max(_LEAST_ROOT_BYTES, content * 3 // 2) >> 20 << 20)


def _root_bytes(size: int) -> int:
    return size - 2 * _START_BYTES - _ESP_BYTES


def _partition(raw: Path, size: int, uuid: str) -> None:
    """Two partitions; gptmbr.bin looks for attribute 2, "legacy BIOS bootable" (UEFI 2.10, 5.3.3)."""
    with raw.open("wb") as file:
        file.truncate(size)
    sector = _SECTOR_BYTES
    esp, root = _START_BYTES // sector, (_START_BYTES + _ESP_BYTES) // sector
    argv = ["sgdisk", "--clear", f"--disk-guid={disks.uuid_of(uuid + 'disk')}"]
    argv += [f"--new=1:{esp}:{root - 1}", "--typecode=1:ef00", "--change-name=1:esp", "--attributes=1:set:2"]
    argv += [
        f"--new=2:{root}:{root + _root_bytes(size) // sector - 1}",
        "--typecode=2:8300",
        "--change-name=2:root",
    ]
    argv += [f"--partition-guid=1:{disks.uuid_of(uuid + 'esp')}", f"--partition-guid=2:{uuid}", str(raw)]
    commands.run(argv, "cannot partition the disk")
    try:
        mbr = Path(_SYSLINUX_MBR).read_bytes()
    except FileNotFoundError:
        raise HostUnfit("cannot make a bootable disk", _SYSLINUX_MBR, "it is not here", _HINT) from None
    with raw.open("r+b") as file:
        file.write(mbr[:440])


_HINT = "apt-get install syslinux syslinux-common gdisk mtools dosfstools"


def _fill_esp(raw: Path, half: Path, home: Path, config: ImageConfig, uuid: str) -> None:
    """Make the system partition in a file of its own, copy it into place, install the BIOS loader."""
    esp = half / "esp"
    with esp.open("wb") as file:
        file.truncate(_ESP_BYTES)
    argv = ["mkfs.vfat", "-F", "32", "-n", "ESP", "-i", uuid.replace("-", "")[:8]]
    argv += ["-h", str(_START_BYTES // _SECTOR_BYTES), str(esp)]
    commands.run(argv, "cannot make the system partition")
    for folder in ("loader", "loader/entries", "EFI", "EFI/BOOT"):
        commands.run(["mmd", "-i", str(esp), f"::/{folder}"], "cannot fill the system partition")
    for name, path in _esp_files(half, home, config, uuid).items():
        commands.run(["mcopy", "-i", str(esp), str(path), f"::/{name}"], "cannot fill the system partition")
    place(esp, raw, _START_BYTES)
    install = ["syslinux", "--install", "--offset", str(_START_BYTES), str(raw)]
    commands.run(install, "cannot install the BIOS loader")


def _esp_files(half: Path, home: Path, config: ImageConfig, uuid: str) -> dict[str, Path]:
    kernel = kernels.guest_kernel(home, "generic")
    words = "console=tty0 console=ttyS0,115200 no_timer_check panic=10"
    ramdisk = half / "initrd"
    ramdisk.write_bytes(initrd(kernel, half, config, uuid))
    bios = f"DEFAULT vmm\nLABEL vmm\n LINUX /vmlinuz\n INITRD /initrd\n APPEND {words}\n"
    uefi = f"title vmm\nlinux /vmlinuz\ninitrd /initrd\noptions {words}\n"
    return {
        "vmlinuz": kernel.bzimage,
        "initrd": ramdisk,
        "syslinux.cfg": _text(half / "bios", bios),
        "loader/loader.conf": _text(half / "loader", "default vmm\ntimeout 0\n"),
        "loader/entries/vmm.conf": _text(half / "uefi", uefi),
        "EFI/BOOT/BOOTX64.EFI": _uefi_loader(home),
    }


def place(part: Path, whole: Path, offset_bytes: int) -> None:
    """Copy a file into a larger one at an offset; blocks of zeros are left as the holes that they are."""
    zeros = bytes(1 << 18)
    with part.open("rb") as source, whole.open("r+b") as target:
        for at in range(0, part.stat().st_size, len(zeros)):
            chunk = source.read(len(zeros))
            if chunk != zeros[: len(chunk)]:
                target.seek(offset_bytes + at)
                target.write(chunk)


def _text(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def _uefi_loader(home: Path) -> Path:
    """systemd-boot: the host's, else Debian's package unpacked into the cache."""
    name = Path("usr/lib/systemd/boot/efi/systemd-bootx64.efi")
    folder = home / "cache" / "systemd-boot"
    for path in (Path("/") / name, folder / name):
        if path.is_file():
            return path
    folder.mkdir(parents=True, exist_ok=True)
    fetch = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", "systemd-boot-efi"]
    commands.run(fetch, "cannot fetch systemd-boot", cwd=folder)
    for package in sorted(folder.glob("systemd-boot-efi_*.deb")):
        commands.run(["dpkg-deb", "-x", str(package), str(folder)], "cannot unpack systemd-boot")
    if not (folder / name).is_file():
        raise NotFound("no UEFI loader", "systemd-boot-efi", "the package does not hold it")
    return folder / name


def initrd(kernel: at_hand.GuestKernel, half: Path, config: ImageConfig, uuid: str) -> bytes:
    """A busybox, the modules in their order, and a script that finds the root and goes on there."""
    busybox = tiny.static_busybox(half).read_bytes()
    modules = initrds.resolve(kernel, [m for m in MODULES if _has(kernel, m)])
    names = [initrds.plain_name(path.name) for path in modules]
    init = _INIT.format(uuid=uuid, init="/sbin/init", command=_command(config))
    parts = [initrds.entry(name, b"", 0o040755) for name in ("bin", "dev", "proc", "sys", "root", "modules")]
    parts.append(initrds.entry("dev/console", b"", 0o020600, device=(5, 1)))
    parts.append(initrds.entry("bin/busybox", busybox, 0o100755))
    parts.append(initrds.entry("init", init.encode(), 0o100755))
    order = "".join(f"/modules/{name}\n" for name in names)
    parts.append(initrds.entry("modules/order", order.encode(), 0o100644))
    for name, path in zip(names, modules, strict=True):
        parts.append(initrds.entry(f"modules/{name}", initrds.read_module(path), 0o100644))
    return b"".join([*parts, initrds.entry("TRAILER!!!", b"", 0)])


def _has(kernel: at_hand.GuestKernel, name: str) -> bool:
    try:
        initrds.resolve(kernel, [name])
    except Unsupported:
        return False
    return True


def _command(config: ImageConfig) -> str:
    """The image's own command as words of a shell, with its variables and directory."""
    words: Sequence[str] = (*config.entrypoint, *config.cmd) or ("/bin/sh",)
    env = " ".join(shlex.quote(word) for word in config.env)
    inner = f"cd {shlex.quote(config.workdir)} && exec " + " ".join(shlex.quote(word) for word in words)
    return f"/usr/bin/env -i {env} /bin/sh -c {shlex.quote(inner)}"
