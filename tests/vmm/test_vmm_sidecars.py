"""Folders of the host and a TPM in a machine: what a guest may do, and that nothing outlives it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from capabilities import need
from machines import machine
from test_vmm_machine import inside

from host.edges import Edges
from host.errors import HostUnfit
from vmm import sidecars
from vmm.confine import Confinement
from vmm.spec import Share

pytestmark = [pytest.mark.machine, pytest.mark.timeout(300)]


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            pass
        time.sleep(0.02)
    return not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("boot", ["microvm", "direct"])
def test_a_shared_folder_keeps_owners_and_modes(tmp_path: Path, boot: str) -> None:
    need("root", "qemu", "kernel", "guest-helper", "busybox", "virtiofsd")
    (tmp_path / "from-host").write_text("hello")
    os.chown(tmp_path / "from-host", 1234, 5678)
    closed = tmp_path / "closed"
    closed.mkdir()
    (closed / "kept").write_text("as it was")
    shares = (
        Share(source=str(tmp_path), target="/mnt/all", tag="share0", kind="virtiofs"),
        Share(source=str(closed), target="/mnt/closed", tag="share1", kind="virtiofs", read_only=True),
    )
    with machine("sleep", "1000", boot=boot, shares=shares, kernel_flavour="cloud") as it:
        it.start(Edges())
        served = sidecars.living(it.run_dir)
        assert len(served) == 2
        assert it.inspect()["pids"] == [it.pid(), *served]
        assert inside(it, "stat", "-c", "%u %g %s", "/mnt/all/from-host") == (0, b"1234 5678 5\n")
        made = "cd /mnt/all && echo hi > made && chown 77:88 made && chmod 640 made && ln -s made link"
        assert inside(it, "sh", "-c", made)[0] == 0
        told = (tmp_path / "made").stat()
        assert (told.st_uid, told.st_gid, told.st_mode & 0o777) == (77, 88, 0o640)
        assert os.readlink(tmp_path / "link") == "made"
        # Even a guest that mounts it anew, for writing, changes nothing.
        inside(it, "sh", "-c", "mount -t virtiofs share1 /tmp && echo x > /tmp/kept")
        inside(it, "mount", "-o", "remount,rw", "/mnt/closed")
        assert inside(it, "sh", "-c", "echo x > /mnt/closed/kept")[0] != 0
        assert (closed / "kept").read_text() == "as it was"
        it.kill()
    assert all(gone(pid) for pid in served)


def test_a_missing_virtiofsd_is_told_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("root", "qemu", "kernel", "guest-helper", "busybox")
    monkeypatch.setattr(sidecars, "VIRTIOFSD", ("/nonexistent",))
    shares = (Share(source=str(tmp_path), target="/mnt", tag="share0", kind="virtiofs"),)
    with machine("true", shares=shares, kernel_flavour="cloud") as it:
        with pytest.raises(HostUnfit, match="virtiofsd is not installed"):
            it.start(Edges())
        assert not it.run_dir.exists()


def test_one_that_nobody_connects_to_is_ended(tmp_path: Path) -> None:
    need("root", "virtiofsd")
    from vmm.spec import MachineSpec

    spec = MachineSpec(name="m", shares=(Share(source=str(tmp_path), target="/mnt", kind="virtiofs"),))
    (run := tmp_path / "run").mkdir()
    pids = sidecars.start(spec, run, tmp_path, Confinement())
    sidecars.end(pids)
    assert all(gone(pid) for pid in pids)


@pytest.mark.parametrize("driver", ["qemu", pytest.param("libvirt", marks=pytest.mark.slow)])
def test_a_tpm_is_there_and_remembers(driver: str) -> None:
    need("root", "qemu", "kernel", "guest-helper", "busybox", "swtpm")
    if driver == "libvirt":
        need("libvirt", "swtpm_setup")
    with machine("sleep", "1000", boot="direct", tpm=True, driver=driver) as it:
        it.start(Edges())
        assert inside(it, "cat", "/sys/class/tpm/tpm0/tpm_version_major") == (0, b"2\n")
        if driver == "qemu":
            (served,) = sidecars.living(it.run_dir)
            assert Path(f"/proc/{served}").stat().st_uid == Path(f"/proc/{it.pid()}").stat().st_uid != 0
            assert (it.folder / "tpm" / "tpm2-00.permall").stat().st_size > 0
        it.kill()
    if driver == "qemu":
        assert gone(served)


def test_a_generation_id_is_another_one_at_each_start() -> None:
    need("root", "qemu", "kernel", "guest-helper", "busybox")
    seen = set()
    with machine("sleep", "1000", boot="direct", vmgenid="auto", kernel_flavour="generic") as it:
        for _ in range(2):
            it.start(Edges())
            seen.add(it.execute("query-vm-generation-id")["guid"])
            assert b"QEMUVGID" in inside(it, "ls", "/sys/bus/acpi/devices")[1]
            assert inside(it, "cat", "/sys/class/misc/hw_random/rng_current") == (0, b"virtio_rng.0\n")
            it.kill()
    assert len(seen) == 2
