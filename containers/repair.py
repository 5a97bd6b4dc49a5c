"""What killed commands and killed containers left outside their folders: cgroups, leases, run directories."""

from __future__ import annotations

import os
from pathlib import Path

from containers import runtime
from host import paths, records
from host.linux.cgroup import PARENT, Cgroup, layout


def repair(home: Path) -> list[str]:
    """Remove the containers' traces that nobody lives in and nobody holds; one line for each.

    A process in such a group is one that its container's end should have taken along: it goes too.
    """
    base = paths.run_dir(home)
    said = []
    for name in sorted(_groups(base.name)):
        if _is_stray(home, base, name):
            Cgroup(f"{base.name}-{name}").remove()
            said.append(f"cgroup of container {name}")
    for name in sorted(_run_directories(base)):
        if not (home / "instances" / name).exists() and runtime.living(base / name) is None:
            runtime.forget(base / name)
            said.append(f"run directory of container {name}")
    return said


def _groups(digest: str) -> set[str]:
    found = set()
    for directory in set(layout().bases.values()):
        try:
            names = os.listdir(f"{directory}/{PARENT}")
        except OSError:
            continue
        found |= {name.removeprefix(f"{digest}-") for name in names if name.startswith(f"{digest}-")}
    return found


def _run_directories(base: Path) -> list[str]:
    """Directories that a container's run made: they hold its pid in our words."""
    try:
        names = os.listdir(base)
    except OSError:
        return []
    return [one for one in names if runtime.recorded(base / one) is not None]


def _is_stray(home: Path, base: Path, name: str) -> bool:
    if runtime.living(base / name) is not None:
        return False
    folder = home / "instances" / name
    # Between its cgroup and its pid a start is held by one of two locks: its folder's, or the lock in it.
    return records.is_free(folder) and records.is_free(folder / "lock")
