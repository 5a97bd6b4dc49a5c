"""Real machines for tests: one home for all, a folder a machine, small guests under TCG."""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from capabilities import NEXT_QEMUS, need, next_qemu

from host import paths
from host.stdio import Stdio
from images import bases, disks, initrds, kernels
from images.store import Image, Store
from vmm import rungs
from vmm.machine import Machine
from vmm.spec import Command, Disk, MachineSpec, replace

ENV = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",)
QUIET = Stdio(stdin=os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))


def shared_home() -> Path:
    """The home of all machine tests, made once, whose folders QEMU's own user can pass."""
    return Path(os.environ.get("VMM_TEST_HOME", "/var/tmp/vmm-test-home"))


def chosen(driver: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The driver of a test's parameter; `qemu10` and its like are `qemu` with that QEMU in front of PATH."""
    if driver not in NEXT_QEMUS:
        return driver
    need(driver)
    monkeypatch.setenv("PATH", f"{next_qemu(NEXT_QEMUS[driver])}:{os.environ['PATH']}")
    return "qemu"


@functools.cache
def kernel(flavour: str = "cloud") -> kernels.GuestKernel:
    """Debian's cloud kernel, or the generic one that knows 9p."""
    return kernels.guest_kernel(shared_home(), flavour)


@functools.cache
def image(name: str) -> Image:
    """An image of the shared home, made on first use."""
    store = Store(shared_home())
    try:
        return store.resolve(name)
    except Exception:
        return bases.build(store, name, lambda _: None)


def spec_of(folder: Path, argv: tuple[str, ...], boot: str = "microvm", **more: Any) -> MachineSpec:
    """The spec of a tiny machine that runs `argv`."""
    guest_kernel = kernel(more.pop("kernel_flavour", "generic" if more.get("shares") else "cloud"))
    spec = MachineSpec(
        name=folder.name,
        boot=boot,
        accel=more.pop("accel", "tcg"),
        kernel=str(getattr(guest_kernel, rungs.kernel_file(boot))),
        root="/dev/vda",
        disks=(Disk(path=str(folder / "disk.qcow2")),),
        command=Command(argv=argv, env=ENV),
        memory_bytes=more.pop("memory_bytes", 128 << 20),
        **more,
    )
    made = initrds.initrd(shared_home(), guest_kernel, paths.guest_helper(), rungs.modules(spec))
    return replace(spec, initrd=str(made))


@contextmanager
def machine(*argv: str, image_name: str = "tiny", **more: Any) -> Iterator[Machine]:
    """A machine with a disk of its own, removed afterwards whatever happened."""
    instances = paths.ensure(shared_home() / "instances")
    folder = Path(tempfile.mkdtemp(prefix="m-", dir=instances))
    folder.chmod(0o755)
    held = os.open(folder / "lock", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(held, fcntl.LOCK_EX)  # without a record, a command in this home would take it for half made
    run = paths.run_dir(shared_home()) / folder.name
    try:
        disks.overlay(disks.base(Store(shared_home()), image(image_name)), folder / "disk.qcow2")
        made = Machine(folder, run, spec_of(folder, argv, **more))
        try:
            yield made
        finally:
            made.remove()
        assert not run.exists(), f"left behind: {list(run.iterdir())}"
    finally:
        os.close(held)
        shutil.rmtree(folder, ignore_errors=True)
