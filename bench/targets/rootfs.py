"""The image's files as one root directory, for targets that take a directory: the same layers that ct mounts.

The overlay is mounted in a mount namespace of the worker's own, before t0: when the worker ends, the mount is
gone with it, kill -9 or not. What it wrote lies under VMM_HOME/bench and is removed by `sweep`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.targets.command import HELPER
from host import paths
from host.linux import syscalls
from host.records import lock


def work_dir() -> Path:
    """Where targets keep what they make for a while."""
    return paths.ensure(paths.home() / "bench")


def prepare(image: str) -> None:
    """Have the image in the store, and the guest helper as a layer that lies over it."""
    from instances import provision

    provision.image(image)
    layer = paths.ensure(_helper_layer())
    helper = paths.guest_helper()
    target = layer / HELPER.lstrip("/")
    if not target.exists() or target.stat().st_mtime < helper.stat().st_mtime:
        shutil.copy(helper, target.with_suffix(".new"))
        os.replace(target.with_suffix(".new"), target)


@contextmanager
def mounted(image: str, devices: bool = False) -> Iterator[Path]:
    """The image's root directory, writable, seen by this process and its children only; needs root.

    `devices` gives it the host's /dev and a /proc, for targets that mount neither.
    """
    from instances import provision

    lowers = [str(_helper_layer()), *provision.lower_dirs(provision.image(image))]
    with scratch_folder() as scratch:
        for name in ("upper", "work", "root"):
            (scratch / name).mkdir()
        root = str(scratch / "root").encode()
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount(b"none", b"/", b"", syscalls.MS_REC | syscalls.MS_PRIVATE, b"")
        options = f"lowerdir={':'.join(lowers)},upperdir={scratch}/upper,workdir={scratch}/work"
        syscalls.mount(b"overlay", root, b"overlay", 0, options.encode())
        if devices:
            syscalls.mount(b"/dev", root + b"/dev", b"", syscalls.MS_BIND | syscalls.MS_REC, b"")
            syscalls.mount(b"proc", root + b"/proc", b"proc", 0, b"")
        try:
            yield scratch / "root"
        finally:
            syscalls.umount2(root, syscalls.MNT_DETACH)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A directory that is locked while it is in use, so that `sweep` knows what a killed worker left."""
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=work_dir()))
    try:
        with lock(folder / "lock"):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep() -> list[str]:
    """Remove the directories of workers that were killed; returns their names."""
    from host.errors import DeadlinePassed

    removed = []
    for folder in work_dir().glob("run-*"):
        try:
            with lock(folder / "lock", wait_s=0):
                shutil.rmtree(folder, ignore_errors=True)
                removed.append(folder.name)
        except (DeadlinePassed, FileNotFoundError):
            continue
    return removed


def _helper_layer() -> Path:
    return work_dir() / "helper-layer"
