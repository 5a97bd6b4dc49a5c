"""The probe: KVM's code path with a boot sector of our own, and what is said where a guest never speaks."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from capabilities import need

from vmm import accelerator
from vmm.accelerator import Verdict

# A boot sector that writes "K" to the first serial port (0x3f8), then stops: mov dx, mov al, out, hlt, jmp.
_SPEAKS = bytes.fromhex("baf803b04beef4ebfd")
_HANGS = bytes.fromhex("ebfe")


def sector(code: bytes, folder: Path) -> str:
    folder.chmod(0o755)
    path = folder / "sector"
    path.write_bytes(code.ljust(510, b"\0") + b"\x55\xaa")
    path.chmod(0o644)
    return str(path)


def argv(disk: str, serial: str, accel: str) -> list[str]:
    cpu = "host,-arch-capabilities" if accel == "kvm" else "qemu64"
    drive = f"file={disk},format=raw,if=floppy,read-only=on"
    return [
        *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-m", "16M"),
        *("-M", "pc", "-accel", accel, "-cpu", cpu, "-serial", f"file:{serial}", "-drive", drive),
    ]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that QEMU's own user can pass."""
    with tempfile.TemporaryDirectory(prefix="vmm-sector-", dir="/var/tmp") as name:
        yield Path(name)


@pytest.mark.machine
@pytest.mark.parametrize("accel", ["kvm", "tcg"])
def test_a_boot_sector_speaks(accel: str, folder: Path) -> None:
    need("qemu", *(["kvm-device"] if accel == "kvm" else []))
    disk = sector(_SPEAKS, folder)
    trouble = accelerator.try_guest(lambda serial: argv(disk, serial, accel), b"K", 10.0)
    if accel == "kvm" and trouble:
        # QEMU, the device and our path ran; whether KVM runs a guest to its end is the host's affair.
        assert "did not reach" in trouble or "QEMU ended" in trouble
        pytest.skip(f"KVM opens here, but {trouble}")
    assert trouble == ""


@pytest.mark.machine
def test_a_guest_that_hangs_ends_at_the_deadline_and_is_gone(folder: Path) -> None:
    need("qemu")
    disk = sector(_HANGS, folder)
    began = time.monotonic()
    trouble = accelerator.try_guest(lambda serial: argv(disk, serial, "tcg"), b"K", 0.7)
    assert trouble == "the guest kernel did not reach its marker in 0.7 s"
    assert time.monotonic() - began < 3
    running = [path for path in Path("/proc").glob("[0-9]*/cmdline") if disk.encode() in _read(path)]
    assert running == []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_verdict_holds_for_one_boot_of_the_host(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "closed", lambda: None)
    monkeypatch.setattr(
        accelerator, "try_guest", lambda *_: "the guest kernel did not reach its marker in 5 s"
    )
    assert accelerator.choose("/k", "", home) == "tcg"
    told = "kvm: present, but the guest kernel did not reach its marker in 5 s; using tcg"
    assert accelerator.recorded(home) == Verdict("tcg", told)
    monkeypatch.setattr(accelerator, "try_guest", lambda *_: pytest.fail("probed a second time"))
    assert accelerator.choose("/k", "", home) == "tcg"
    monkeypatch.setattr(accelerator, "_boot_id", lambda: "another boot")
    assert accelerator.recorded(home) is None
