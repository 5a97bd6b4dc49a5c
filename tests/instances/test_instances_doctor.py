"""doctor tells what really works: a capability that is taken away reads no, with what mends it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli import main as front
from host import records
from instances import doctor


def finding(name: str, quick: bool = True) -> doctor.Finding:
    return next(one for one in doctor.examine(quick=quick) if one.name == name)


def test_a_program_that_is_missing_reads_no_with_its_package(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(home))
    for name, package in (("qemu", "qemu-system-x86"), ("mke2fs", "e2fsprogs"), ("swtpm", "swtpm")):
        found = finding(name)
        assert not found.works
        assert package in found.mend


def test_a_missing_guest_helper_says_make_setup(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMM_GUEST", str(home / "none"))
    found = finding("guest helper")
    assert (found.works, found.mend) == (False, "make setup")


def test_a_home_that_cannot_be_written_reads_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMM_HOME", "/proc/nowhere")
    assert not finding("home").works


def test_a_small_disk_reads_no(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_LEAST_FREE_BYTES", 1 << 60)
    found = finding("disk space")
    assert not found.works
    assert "vmm prune" in found.mend


def test_kvm_reads_as_the_probe_of_this_boot_found_it(home: Path) -> None:
    """A /dev/kvm that opens proves nothing: what a guest did under it counts."""
    from vmm import accelerator

    if accelerator.closed():
        pytest.skip(f"needs 'kvm-device': {accelerator.closed()}")
    for word, works in (("tcg", False), ("kvm", True)):
        home.mkdir(exist_ok=True)
        told = {"accelerator": word, "reason": f"kvm: told {word}", "host_boot_id": accelerator._boot_id()}
        records.write(home / "accelerator.json", told)
        found = finding("kvm", quick=False)
        assert (found.works, found.reason) == (works, f"told {word}")


def test_every_capability_that_is_missing_says_what_mends_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(home))
    for one in doctor.examine(quick=True):
        assert one.works or (one.reason and one.mend), one


def test_json_is_one_document(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    front.main(["doctor", "--quick", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["schema_version"] == 1
    assert {"name", "works", "reason", "mend", "needed"} == set(told["capabilities"][0])


def test_a_missing_need_is_status_1(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMM_GUEST", str(home / "none"))
    assert front.main(["doctor", "--quick"]) == 1


def test_repair_of_a_clean_home_says_so(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert front.main(["doctor", "--repair"]) == 0
    assert "nothing was half made" in capsys.readouterr().out
