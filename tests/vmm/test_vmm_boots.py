"""The boot ladder with real guests: every rung runs the same command; firmware has a screen; folders are
shared."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from capabilities import need
from machines import machine
from test_vmm_machine import inside, said

from host.edges import Edges
from vmm import screenshot
from vmm.spec import Share

pytestmark = pytest.mark.machine


@pytest.fixture(autouse=True)
def _capable() -> None:
    need("root", "qemu", "kernel", "busybox", "guest-helper")


@pytest.mark.parametrize("boot", ["direct", "pvh", pytest.param("bios", marks=pytest.mark.slow)])
def test_every_rung_runs_the_same_command(boot: str) -> None:
    with machine("echo", "hi", boot=boot, ephemeral=True) as it:
        assert said(lambda stdio: it.run(stdio, Edges())) == (0, b"hi\n")


@pytest.mark.parametrize("boot", ["microvm", "direct", "pvh"])
def test_an_idle_guest_lets_its_processor_sleep(boot: str) -> None:
    """250 ticks a second, emulated, are 4 % of a core: fifty such machines are two cores."""
    count = "grep LOC /proc/interrupts; sleep 2; grep LOC /proc/interrupts"
    with machine("sleep", "60", boot=boot) as it:
        it.start(Edges())
        inside(it, "sleep", "3")  # Linux looks for a better clock in its first two seconds
        words = inside(it, "sh", "-c", count)[1].split()
        first, last = (int(words[at + 1]) for at in [n for n, word in enumerate(words) if word == b"LOC:"])
        assert last - first < 2 * 100


@pytest.mark.slow
@pytest.mark.parametrize("driver", ["qemu", "libvirt"])
def test_uefi_has_variables_and_a_screen_of_its_own(driver: str, tmp_path: Path) -> None:
    need("ovmf", *(["libvirt"] if driver == "libvirt" else []))
    with machine("sleep", "60", boot="uefi", driver=driver, memory_bytes=256 << 20) as it:
        it.start(Edges())
        assert inside(it, "cat", "/sys/firmware/efi/fw_platform_size") == (0, b"64\n")
        assert (it.folder / "vars.fd").exists()
        screenshot.take(it, tmp_path / "shot.png")
        assert (tmp_path / "shot.png").read_bytes().startswith(b"\x89PNG")
        assert not (it.run_dir / "screen.png").exists()


@pytest.mark.slow
def test_a_folder_is_shared_both_ways_and_read_only_where_asked() -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        os.chmod(name, 0o777)
        Path(name, "given").write_text("from the host\n")
        shares = (Share(source=name, target="/rw"), Share(source=name, target="/ro", read_only=True))
        script = "cat /rw/given; echo back > /rw/back; echo no > /ro/no"
        with machine("sh", "-c", script, shares=shares, ephemeral=True) as it:
            status, words = said(lambda stdio: it.run(stdio, Edges()))
        assert words == b"from the host\n"
        assert status != 0
        assert Path(name, "back").read_text() == "back\n"
        assert not Path(name, "no").exists()
