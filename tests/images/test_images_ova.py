"""Appliances: their disk comes in verified, with the memory and processors that they ask for."""

from __future__ import annotations

import gzip
import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from capabilities import need
from commandline import CommandLine
from image_trees import a_file, tar

from host.errors import BadData, Failure, Unsupported
from images import disks, importing, ova
from images.store import Image, Store

ENVELOPE = """<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
  xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
  xmlns:vmw="http://www.vmware.com/schema/ovf">
  <References><File ovf:href="{href}" ovf:id="file1"{packed}/></References>
  <DiskSection><Info/>{disks}</DiskSection>
  <VirtualSystem ovf:id="box"><VirtualHardwareSection>
    <Item><rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>2</rasd:VirtualQuantity></Item>
    <Item><rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:ResourceType>4</rasd:ResourceType>
      <rasd:VirtualQuantity>384</rasd:VirtualQuantity></Item>
    <vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="efi"/>
  </VirtualHardwareSection></VirtualSystem>
</Envelope>
"""
DISK = (
    '<Disk ovf:diskId="d1" ovf:fileRef="file1" ovf:capacity="2" ovf:capacityAllocationUnits="byte * 2^20"/>'
)
CONTENT = b"the first sector".ljust(2 << 20, b"\0")


@pytest.fixture(scope="module")
def vmdk(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A disk in the form that exports have: a stream-optimised vmdk."""
    need("qemu")
    folder = tmp_path_factory.mktemp("vmdk")
    (folder / "raw").write_bytes(CONTENT)
    words = ["-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized"]
    subprocess.run(["qemu-img", "convert", *words, folder / "raw", folder / "vmdk"], check=True)
    return (folder / "vmdk").read_bytes()


def envelope(href: str = "box-disk1.vmdk", packed: str = "", disks: str = DISK) -> bytes:
    return ENVELOPE.format(href=href, packed=packed, disks=disks).encode()


def package(path: Path, ovf: bytes, disk: bytes, listed: bytes = b"") -> Path:
    files = [a_file("box.ovf", ovf), a_file("box.mf", listed), a_file("box-disk1.vmdk", disk)]
    path.write_bytes(tar(*(one for one in files if one[1]["data"])))
    return path


def imported(store: Store, path: Path) -> Image:
    return importing.run(store, importing.Wish(str(path), "box:1"), lambda _line: None)


def content(store: Store, image: Image, scratch: Path) -> bytes:
    return disks.convert(disks.base(store, image), scratch / "raw", "raw", source_format="qcow2").read_bytes()


def test_an_ova_comes_in(store: Store, tmp_path: Path, vmdk: bytes) -> None:
    ovf = envelope()
    listed = b"SHA256(box.ovf)= %s\nSHA1(box-disk1.vmdk) = %s\n" % (
        hashlib.sha256(ovf).hexdigest().encode(),
        hashlib.sha1(vmdk).hexdigest().upper().encode(),
    )
    image = imported(store, package(tmp_path / "any-name", ovf, vmdk, listed))
    assert content(store, image, tmp_path) == CONTENT
    told = image.config.labels
    assert (told["vmm.memory_bytes"], told["vmm.cpus"], told["vmm.boots"]) == (str(384 << 20), "2", "uefi")


def test_a_machine_of_it_is_as_it_asks(home: Path, tmp_path: Path, vmdk: bytes) -> None:
    vmm = CommandLine(home)
    vmm.ok("image", "import", "-q", str(package(tmp_path / "box.ova", envelope(), vmdk)), "box:1")
    plan = vmm.ok("run", "--dry-run", "--vm", "--driver", "qemu", "box:1")
    assert "size=384M" in plan
    assert "-smp 2" in plan
    assert "pflash0" in plan
    assert "size=128M" in vmm.ok("run", "--dry-run", "--vm", "--driver", "qemu", "-m", "128M", "box:1")


def test_an_ovf_takes_the_disk_beside_it_packed_too(store: Store, tmp_path: Path, vmdk: bytes) -> None:
    (tmp_path / "box.ovf").write_bytes(envelope("box-disk1.vmdk.gz", ' ovf:compression="gzip"'))
    (tmp_path / "box-disk1.vmdk.gz").write_bytes(gzip.compress(vmdk))
    assert content(store, imported(store, tmp_path / "box.ovf"), tmp_path) == CONTENT


def refused(store: Store, path: Path, kind: type[Failure], words: str) -> None:
    with pytest.raises(kind, match=words):
        imported(store, path)
    assert store.images() == []
    assert list(store.staging.iterdir()) == []


@pytest.mark.parametrize("listed", [b"SHA256(box-disk1.vmdk)= 00ff\n", b"SHA1(box.ovf)= 00ff\n"])
def test_a_digest_that_differs_is_refused(store: Store, tmp_path: Path, vmdk: bytes, listed: bytes) -> None:
    refused(store, package(tmp_path / "a", envelope(), vmdk, listed), BadData, "is .*, not 00ff")


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda: envelope(disks=DISK + DISK.replace("d1", "d2")), Unsupported, "2 disks"),
        (lambda: envelope(disks=""), Unsupported, "0 disks"),
        (lambda: envelope(disks=DISK.replace("file1", "file9")), BadData, "names no file"),
        (lambda: envelope("../../etc/passwd"), Failure, "no file in the appliance"),
        (lambda: envelope()[:300], BadData, "no XML"),
        (lambda: envelope() + b" " * (5 << 20), BadData, "larger than 4 MiB"),
    ],
)
def test_envelopes_that_do_not_fit_are_refused(
    store: Store, tmp_path: Path, vmdk: bytes, make: Callable[[], bytes], kind: type[Failure], words: str
) -> None:
    refused(store, package(tmp_path / "a", make(), vmdk), kind, words)


def test_a_disk_that_names_other_files_is_refused(store: Store, tmp_path: Path, vmdk: bytes) -> None:
    evil = tmp_path / "evil"
    (tmp_path / "secret").write_bytes(bytes(1 << 20))
    words = ["-f", "qcow2", "-b", tmp_path / "secret", "-F", "raw"]
    subprocess.run(["qemu-img", "create", "-q", *words, evil], check=True)
    refused(store, package(tmp_path / "a", envelope(), evil.read_bytes()), BadData, "backed by")


def test_a_name_beside_the_ovf_cannot_lead_elsewhere(store: Store, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "box.ovf").write_bytes(envelope("../secret"))
    (tmp_path / "secret").write_bytes(CONTENT)
    refused(store, tmp_path / "x" / "box.ovf", Failure, "no file beside")


def test_a_tar_of_a_root_file_system_is_no_appliance(tmp_path: Path) -> None:
    path = tmp_path / "rootfs"
    path.write_bytes(tar(a_file("etc/passwd"), a_file("late.ovf")))
    assert not ova.is_ova(path)
    assert not ova.is_ovf(path)
