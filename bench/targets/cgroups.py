"""Where processes are charged for their memory, and the removal of empty cgroups that a killed peer left."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def memory_of(pid: int) -> tuple[str, ...]:
    """The memory cgroup of a process (v1 `memory`, else the unified one), as a directory."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if "memory" in controllers.split(",") or not controllers:
                for mount in ("memory", "", "unified"):
                    folder = ROOT / mount / path.lstrip("/")
                    if (folder / "memory.stat").exists():
                        return (str(folder),)
    return ()


def remove(name: str) -> None:
    """Remove a cgroup of ours and what is below it, in every hierarchy; only empty ones can be removed."""
    for base in (ROOT, *(folder for folder in ROOT.iterdir() if folder.is_dir())):
        for where, _, _ in os.walk(base / name, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(where)
