"""What a test left behind on the host: processes, mounts, cgroups, interfaces, namespaces' files, files.

    with leaks.none(home):
        ...

fails with the list of what is there afterwards and was not before. Only what carries the mark of the home is
looked at (its path, or the digest that names its run directory): others may work on the host meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from host import paths
from host.errors import Failure

_SETTLE_S = 5.0


def snapshot(home: Path, files: bool = True) -> set[str]:
    """Everything on this host that belongs to `home`, one line each."""
    found = _processes(home) | _mounts(home) | _cgroups(home) | _interfaces(home)
    if files:
        found |= _files(paths.instances_dir(home)) | _files(paths.run_dir(home))
    return found


@contextlib.contextmanager
def none(home: Path, files: bool = True) -> Iterator[None]:
    """Fail when something of `home` is left that was not there before; the kernel gets time to settle."""
    before = snapshot(home, files)
    yield
    deadline = time.monotonic() + _SETTLE_S
    while left := snapshot(home, files) - before:
        if time.monotonic() >= deadline:
            raise AssertionError("left behind:\n" + "\n".join(sorted(left)))
        time.sleep(0.05)


def forget(home: Path) -> None:
    """Take away what a home keeps outside of itself: networks, the run directory, the memory of templates."""
    if (home / "networks").is_dir() and os.geteuid() == 0:
        from host.linux.net import networks

        for network in networks.listing(home):
            with contextlib.suppress(Failure):
                networks.remove(home, network.name)
    shutil.rmtree(paths.run_dir(home), ignore_errors=True)
    shutil.rmtree(Path("/dev/shm", f"vmm-{paths.run_dir(home).name}"), ignore_errors=True)


def _marks(home: Path) -> tuple[str, str]:
    return str(home), paths.run_dir(home).name


def _processes(home: Path) -> set[str]:
    """Processes whose words or cgroup name the home; this one and its parents are left out."""
    marks, own, found = _marks(home), _ancestors(), set()
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) in own:
            continue
        with contextlib.suppress(OSError):
            words = Path(entry.path, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            state = Path(entry.path, "stat").read_text().rpartition(")")[2].split()[0]
            group = Path(entry.path, "cgroup").read_text()
            if state != "Z" and any(mark in words or mark in group for mark in marks):
                found.add(f"process {entry.name}: {words.strip()[:200]}")
    return found


def _ancestors() -> set[int]:
    found, pid = set(), os.getpid()
    while pid > 1:
        found.add(pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return found


def _mounts(home: Path) -> set[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {f"mount {line}" for line in lines if f"{home}/instances" in line.split()[4]}


def _cgroups(home: Path) -> set[str]:
    mark, found = paths.run_dir(home).name, set()
    for mount in Path("/proc/self/mountinfo").read_text().splitlines():
        words = mount.split()
        if " - cgroup" in mount:
            for folder in (Path(words[4]) / "vmm", Path(words[4])):
                with contextlib.suppress(OSError):
                    found |= {f"cgroup {entry.path}" for entry in os.scandir(folder) if mark in entry.name}
    return found


def _interfaces(home: Path) -> set[str]:
    """Interfaces whose alias names the home."""
    shown = subprocess.run(["ip", "-d", "link"], capture_output=True, text=True, check=False).stdout
    mark, found = paths.run_dir(home).name, set()
    for block in shown.split("\n"):
        if "alias" in block and mark in block:
            found.add(f"interface {block.strip()}")
    return found


def _files(tree: Path) -> set[str]:
    # Locks are kept on purpose: one that is deleted is no lock. The supervisor's have its name, others a dot.
    names = {path.name for path in tree.glob("*")} if tree.exists() else set()
    return {f"file {tree / name}" for name in names if not name.startswith((".", "supervisor."))}
