"""Targets that really start: each edge in order, the marker's way, and nothing left."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import leaks
import pytest
from capabilities import need

from bench import targets
from bench.core import worker
from bench.core.target import MARKER, Cell, Parts, Target
from bench.targets import ct, disk_use
from host import paths
from host.linux import cgroup

BASE = ("root", "busybox", "guest-helper", "overlay")
NEEDS = {
    "process": BASE, "ct": (*BASE, "cgroup"), "unshare": BASE, "bubblewrap": (*BASE, "bwrap"),
    "runc": (*BASE, "runc"), "crun": (*BASE, "runc", "crun"), "lxc": (*BASE, "lxc"),
    "systemd-nspawn": (*BASE, "nspawn"), "docker": (*BASE, "docker"), "podman": (*BASE, "podman"),
}  # fmt: skip
NEEDS["ct-rootless"] = (*BASE, "user", "userns")
SLOW = ("docker", "podman", "ct-rootless")
ALL = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in NEEDS]
HELD = [one for one in ALL if "ct-rootless" not in str(one)]  # of another user's only starts are measured


@pytest.fixture(scope="module")
def module_home() -> Iterator[Path]:
    """One store for the module, tiny made once; outside of pytest's folder: QEMU's own user must reach it."""
    with tempfile.TemporaryDirectory(prefix="vmm-bench-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder) / "home"
        leaks.forget(Path(folder) / "home")


@pytest.fixture
def target(
    request: pytest.FixtureRequest, module_home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Target]:
    need(*NEEDS[request.param])
    monkeypatch.setenv("VMM_HOME", str(module_home))
    made = targets.load([request.param])[request.param]
    made.prepare(_cell(made))
    yield made
    made.cleanup()


def _cell(made: Target, **changed: object) -> Cell:
    return Cell("start", "command", "tiny", made.name, **changed)  # type: ignore[arg-type]


def _measured(made: Target, cell: Cell) -> Parts:
    (ran,) = worker.runs(lambda: made.run_once(cell), 1, 30.0)
    return ran.parts[0]


@pytest.mark.parametrize("target", ALL, indirect=True)
def test_a_start_passes_its_edges_in_order(target: Target) -> None:
    parts = _measured(target, _cell(target))
    assert (parts.status, parts.error, parts.exit_status) == ("ok", None, 0)
    assert MARKER in parts.output
    edges = parts.edges_ns
    assert 0 == edges["t0"] <= edges["t2"] < edges["t6"] < edges["t8"] < edges["t9"]


@pytest.mark.parametrize("target", ALL, indirect=True)
def test_a_command_that_fails_is_a_failed_sample_with_its_status(target: Target) -> None:
    parts = _measured(target, _cell(target, command=("sh", "-c", "echo no >&2; exit 7")))
    assert parts.status == "failed"
    assert parts.exit_status == 7
    assert "no" in (parts.error or "")


@pytest.mark.parametrize("target", ALL, indirect=True)
def test_a_command_without_the_marker_is_a_failed_sample(target: Target) -> None:
    parts = _measured(target, _cell(target, command=("sh", "-c", "echo else", MARKER)))
    assert parts.status == "failed"
    assert "marker" in (parts.error or "")


@pytest.mark.parametrize("target", HELD, indirect=True)
def test_an_idle_instance_is_weighed_and_gone_afterwards(target: Target) -> None:
    def job() -> Parts:
        with target.hold(_cell(target)) as held:
            time.sleep(0.3)  # the marker comes before the shell has become the sleep
            pids = held.pids()
            names = [Path(f"/proc/{pid}/comm").read_text().strip() for pid in pids]
        left = [pid for pid in pids if os.path.exists(f"/proc/{pid}/root")]
        return Parts(values={"pids": len(pids), "sleeps": names.count("sleep"), "left": len(left)})

    (ran,) = worker.runs(job, 1, 30.0)
    assert ran.parts[0].error is None
    values = ran.parts[0].values
    assert values["sleeps"] == 1
    assert values["left"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("target", ["ct-rootless"], indirect=True)
def test_a_rootless_start_is_an_ordinary_users(target: Target) -> None:
    parts = _measured(target, _cell(target, command=("sh", "-c", f"cat /proc/self/uid_map; echo {MARKER}")))
    assert parts.status == "ok"
    assert int(parts.output.split()[1]) >= 1000  # root inside is nobody special outside


@pytest.mark.parametrize("target", ["process"], indirect=True)
def test_what_a_held_process_began_ends_with_it(target: Target) -> None:
    cell = _cell(target, params=(("hold", "sleep 61 &"),))

    def job() -> Parts:
        with target.hold(cell) as held:
            pids = held.pids()
        time.sleep(0.2)
        return Parts(values={"left": sum(os.path.exists(f"/proc/{pid}/root") for pid in pids)})

    (ran,) = worker.runs(job, 1, 30.0)
    assert ran.parts[0].values == {"left": 0}


@pytest.mark.parametrize("target", ["process"], indirect=True)
def test_the_directory_of_a_killed_worker_is_swept(target: Target, module_home: Path) -> None:
    from bench.targets import rootfs

    def job() -> Parts:
        with rootfs.mounted("tiny"):
            os.kill(os.getpid(), 9)
        return Parts()

    list(worker.runs(job, 1, 10.0))
    assert list((module_home / "bench").glob("run-*"))
    assert len(rootfs.sweep()) == 1
    assert not list((module_home / "bench").glob("run-*"))


def test_disk_counts_holes_and_hard_links_right(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with open(tmp_path / "d" / "sparse", "wb") as file:
        file.truncate(1 << 20)
        file.write(b"x" * 4096)
    os.link(tmp_path / "d" / "sparse", tmp_path / "d" / "again")
    found = disk_use.of([tmp_path / "d"])
    directory = os.lstat(tmp_path / "d")
    assert found["apparent_bytes"] - directory.st_size == 1 << 20
    assert found["allocated_bytes"] - directory.st_blocks * 512 == 4096
    assert found["unique_bytes"] == found["allocated_bytes"]


SLOW_MACHINES = ("qemu", "vm-clone", "vm-libvirt", "virsh")
MACHINES = ["vm", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_MACHINES)]


@pytest.mark.machine
@pytest.mark.parametrize("name", MACHINES)
def test_a_machine_says_the_same_marker(
    name: str, module_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("root", "busybox", "guest-helper", "qemu", "kernel")
    if name in ("vm-libvirt", "virsh"):
        need("libvirt")
    monkeypatch.setenv("VMM_HOME", str(module_home))
    made = targets.load([name])[name]
    made.prepare(_cell(made))
    (ran,) = worker.runs(lambda: made.run_once(_cell(made)), 1, 120.0)
    made.cleanup()
    parts = ran.parts[0]
    assert parts.error is None
    assert (parts.status, parts.exit_status) == ("ok", 0)
    assert MARKER in parts.output
    assert parts.accelerator in ("tcg", "kvm")
    assert 0 == parts.edges_ns["t0"] < parts.edges_ns["t8"] <= parts.edges_ns["t9"]
    assert not list((module_home / "instances").glob("bench-*"))


def test_what_starts_containers_by_the_hundred_loads_no_numpy() -> None:
    code = "import sys, bench.targets.disk_use; print(sorted({'numpy', 'scipy'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"


@pytest.mark.slow
@pytest.mark.machine
@pytest.mark.parametrize("name", ["rung-bios-disk", "rung-uefi-disk", "rung-restore"])
def test_a_rung_that_ends_at_the_marker(
    name: str, module_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("root", "busybox", "guest-helper", "qemu", "kernel", "syslinux", "ovmf")
    monkeypatch.setenv("VMM_HOME", str(module_home))
    made = targets.load([name])[name]
    cell = replace(_cell(made), deadline_s=180.0)
    made.prepare(cell)
    (ran,) = worker.runs(lambda: made.run_once(cell), 1, 400.0)
    made.cleanup()
    assert ran.parts[0].error is None
    assert 0 == ran.parts[0].edges_ns["t0"] < ran.parts[0].edges_ns["t8"] <= ran.parts[0].edges_ns["t9"]
    assert not list((module_home / "instances").glob("bench-*"))


@pytest.mark.slow
@pytest.mark.machine
@pytest.mark.parametrize("name", ["vm-from", "vm-pool"])
def test_clones_of_a_named_template_leave_none_behind(
    name: str, module_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("root", "busybox", "guest-helper", "qemu", "kernel")
    monkeypatch.setenv("VMM_HOME", str(module_home))
    made = targets.load([name])[name]
    cell = _cell(made, params=(("memory", "128M"),))
    made.prepare(cell)
    (ran,) = worker.runs(lambda: made.run_once(cell), 1, 120.0)
    assert (ran.parts[0].error, ran.parts[0].exit_status) == (None, 0)
    assert "t5" not in ran.parts[0].edges_ns  # no kernel started
    made.cleanup()
    assert not [one for one in (module_home / "templates").iterdir() if one.name.startswith("bench-")]
    assert not list(paths.run_dir(module_home).glob(".p-*"))


def test_a_home_that_is_yet_to_be_made_is_writable_where_its_nearest_folder_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user who has just logged in for the first time has no ~/.local."""
    from bench.targets import ours

    monkeypatch.setenv("VMM_HOME", str(tmp_path / ".local" / "share" / "vmm"))
    assert ours.home_is_writable() is None
    monkeypatch.setenv("VMM_HOME", "/proc/nobody/vmm")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != Path("/proc"))
    assert ours.home_is_writable() is not None


def test_a_user_without_a_cgroup_starts_containers_without_the_usual_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = ct.Container()
    limited = _cell(made, params={"memory": "64M"})
    monkeypatch.setattr(cgroup, "layout", lambda: cgroup.Layout(2, {"memory": "/sys/fs/cgroup"}))
    assert made.request(_cell(made)).memory_bytes == 256 << 20
    monkeypatch.setattr(cgroup, "layout", lambda: cgroup.Layout(2, {}, "no cgroup is delegated to this user"))
    assert made.request(_cell(made)).memory_bytes is None
    assert made.request(limited).memory_bytes == 64 << 20
