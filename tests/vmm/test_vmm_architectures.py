"""A machine of another instruction set, from Debian's packages of that architecture, by both drivers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from capabilities import need
from commandline import CommandLine
from machines import shared_home

from host.errors import HostUnfit
from host.paths import guest_helper

pytestmark = [pytest.mark.machine, pytest.mark.timeout(300)]
FOREIGN = "x86_64" if os.uname().machine == "aarch64" else "aarch64"


@pytest.mark.parametrize("driver", ["qemu", pytest.param("libvirt", marks=pytest.mark.slow)])
def test_a_foreign_machine_runs_the_same_command(driver: str) -> None:
    need("root", "qemu", "kernel", "guest-helper", FOREIGN, *(["libvirt"] if driver == "libvirt" else []))
    vmm = CommandLine(shared_home())
    words = ("run", "--vm", "--rm", "--driver", driver, "--network", "none", "--arch", FOREIGN)
    done = vmm.run(*words, "tiny", "sh", "-c", "uname -m; exit 7", timeout_s=280)
    assert (done.returncode, done.stdout) == (7, f"{FOREIGN}\n"), done.stderr


def test_an_image_of_another_architecture_is_told(home: Path) -> None:
    need("busybox")
    vmm = CommandLine(home)
    vmm.ok("image", "build", "--base", "tiny")
    vmm.ok("image", "tag", "tiny", "mine")
    done = vmm.run("run", "--vm", "--arch", FOREIGN, "mine", "true")
    assert done.returncode == 125
    assert f"the image is for {os.uname().machine}" in done.stderr
    assert "vmm image pull --arch" in done.stderr
    assert vmm.ls() == {}


def test_a_helper_that_was_never_built_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.delenv("VMM_GUEST", raising=False)
    with pytest.raises(HostUnfit) as told:
        guest_helper(FOREIGN)
    assert f"gcc-{FOREIGN.replace('_', '-')}-linux-gnu" in told.value.hint


def test_the_helper_of_another_architecture_is_a_static_program_of_it() -> None:
    need("guest-helper", FOREIGN)
    words = ["od", "-An", "-tu2", "-j18", "-N2", guest_helper(FOREIGN)]
    head = subprocess.run(words, capture_output=True, check=True)
    machine = {"aarch64": 183, "x86_64": 62}[FOREIGN]  # elf(5): EM_AARCH64, EM_X86_64
    assert int(head.stdout) == machine
