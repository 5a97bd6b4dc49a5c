"""The probe: KVM's code path with a boot sector of our own, and what is said where a guest never speaks."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from capabilities import need

from vmm import accelerator
from vmm.accelerator import Verdict

Form = Callable[[bytes, Path], list[str]]

# Real-mode code that writes "K" to the first serial port (0x3f8), then stops: mov dx, mov al, out, hlt, jmp.
_SPEAKS = bytes.fromhex("baf803b04beef4ebfd")
_HANGS = bytes.fromhex("ebfe")


def sector(code: bytes, folder: Path) -> list[str]:
    """A 512-byte boot sector on a floppy: SeaBIOS loads it."""
    path = folder / "sector"
    path.write_bytes(code.ljust(510, b"\0") + b"\x55\xaa")
    path.chmod(0o644)
    return ["-drive", f"file={path},format=raw,if=floppy,read-only=on"]


def rom(code: bytes, folder: Path) -> list[str]:
    """The same code where the processor begins after its reset, 16 bytes below 4 GiB: no firmware at all."""
    path = folder / "rom"
    path.write_bytes(bytes(0xFFF0) + code.ljust(16, b"\0"))
    path.chmod(0o644)
    return ["-bios", str(path)]


def argv(guest: list[str], serial: str, accel: str) -> list[str]:
    return [
        *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-m", "16M"),
        *("-M", "pc", "-accel", accel, "-cpu", "qemu64", "-serial", f"file:{serial}", *guest),
    ]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that QEMU's own user can pass."""
    with tempfile.TemporaryDirectory(prefix="vmm-sector-", dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.machine
@pytest.mark.parametrize(("accel", "form"), [("kvm", rom), ("tcg", rom), ("tcg", sector)])
def test_a_guest_of_a_few_bytes_speaks(accel: str, form: Form, folder: Path) -> None:
    need("qemu", *(["kvm-device"] if accel == "kvm" else []))
    guest = form(_SPEAKS, folder)
    assert accelerator.try_guest(lambda serial: argv(guest, serial, accel), b"K", 10.0) == ""


@pytest.mark.machine
def test_a_guest_that_hangs_ends_at_the_deadline_and_is_gone(folder: Path) -> None:
    need("qemu")
    guest = sector(_HANGS, folder)
    began = time.monotonic()
    trouble = accelerator.try_guest(lambda serial: argv(guest, serial, "tcg"), b"K", 0.7)
    assert trouble == "the guest kernel did not reach its marker in 0.7 s"
    assert time.monotonic() - began < 3
    running = [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(folder).encode() in _read(path)]
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
