"""A machine of an ordinary user: no root, no daemon; the same words, and nothing left."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from capabilities import ORDINARY_USER, need
from machines import image, kernel, shared_home

from host import paths
from images import disks
from images.store import Store

pytestmark = pytest.mark.machine
PYTHON = "/usr/bin/python3"  # one that another user may run
SCRIPT = """
import os, sys
from pathlib import Path
from host.edges import Edges
from host.exec_request import ExecRequest
from host.stdio import Stdio
from images import disks, initrds, kernels
from vmm.machine import Machine
from vmm.spec import Command, Disk, MachineSpec

folder = Path(os.environ["VMM_HOME"], "instances", "m")
folder.mkdir(parents=True)
disks.overlay(Path(sys.argv[1]), folder / "disk.qcow2")
spec = MachineSpec(
    name="m", accel="tcg", kernel=sys.argv[2], initrd=sys.argv[3], root="/dev/vda", memory_bytes=128 << 20,
    disks=(Disk(path=str(folder / "disk.qcow2")),), command=Command(argv=("sleep", "60"), env=("PATH=/bin",)),
)
machine = Machine(folder, Path(os.environ["XDG_RUNTIME_DIR"], "m"), spec)
machine.start(Edges())
print(machine.state(), os.stat(f"/proc/{machine.pid()}").st_uid, flush=True)
print(machine.exec(ExecRequest(("sh", "-c", "echo inside; exit 3"), ("PATH=/bin",)), Stdio()), flush=True)
machine.stop(0.1)
print(machine.state(), machine.run_dir.exists())
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """A home of the ordinary user."""
    need("root", "user", "qemu", "kernel", "busybox", "guest-helper")
    if not Path(PYTHON).exists() or sys.version_info[:2] != (3, 11):
        pytest.skip(f"no {PYTHON} of this version, which another user may run")
    entry = pwd.getpwnam(ORDINARY_USER)
    where = Path(tempfile.mkdtemp(prefix="vmm-user-", dir="/var/tmp"))
    (where / "run").mkdir()
    for path in (where, where / "run"):
        os.chown(path, entry.pw_uid, entry.pw_gid)
    yield where
    shutil.rmtree(where, ignore_errors=True)


def test_an_ordinary_user_runs_a_machine(home: Path, tmp_path: Path) -> None:
    from images import initrds
    from vmm import rungs
    from vmm.spec import MachineSpec

    entry = pwd.getpwnam(ORDINARY_USER)
    modules = rungs.modules(MachineSpec(name="m", kernel="/k"))
    initrd = initrds.initrd(shared_home(), kernel(), paths.guest_helper(), modules)
    words = [str(disks.base(Store(shared_home()), image("tiny"))), str(kernel().vmlinux), str(initrd)]
    env = {
        "HOME": str(home),
        "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
        "VMM_HOME": str(home / "vmm"),
        "XDG_RUNTIME_DIR": str(home / "run"),
        "VMM_GUEST": str(paths.guest_helper()),
        "PYTHONPATH": ":".join([str(Path(__file__).parents[2]), sysconfig.get_path("purelib")]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [PYTHON, "-c", textwrap.dedent(SCRIPT), *words],
        env=env, user=entry.pw_uid, group=entry.pw_gid, extra_groups=[], cwd="/",
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines == [f"running {entry.pw_uid}", "inside", "3", "exited False"]
