"""Installed size of the Debian packages that a target needs, their dependencies counted to the end."""

from __future__ import annotations

import re
import subprocess
from functools import cache

from bench.core import workload
from bench.core.target import Cell, Parts, Target

PACKAGES = {
    "ct": ("python3",), "vm": ("python3", "qemu-system-x86"),
    "vm-libvirt": ("python3", "qemu-system-x86", "libvirt-daemon-system"),
    "bubblewrap": ("bubblewrap",), "runc": ("runc",), "crun": ("crun",), "lxc": ("lxc",),
    "docker": ("docker.io",), "podman": ("podman",),
}  # fmt: skip


def measure(target: Target, cell: Cell) -> Parts:
    """`installed_bytes` and `packages` of the closure of hard dependencies that is installed here."""
    try:
        wanted = _closure(PACKAGES.get(target.name, ()))
        sizes = [_installed_bytes(name) for name in wanted]
    except (OSError, subprocess.SubprocessError) as error:
        return workload.skipped(f"no Debian package database: {error}")
    return Parts(
        values={"installed_bytes": float(sum(sizes)), "packages": float(sum(size > 0 for size in sizes))}
    )


def _closure(first: tuple[str, ...]) -> set[str]:
    found: set[str] = set()
    new = set(first)
    while new:
        name = new.pop()
        found.add(name)
        new |= _depends(name) - found
    return found


@cache
def _known() -> dict[str, tuple[str, int]]:
    form = "${Package}\\t${Depends}, ${Pre-Depends}\\t${Installed-Size}\\n"
    argv = ["dpkg-query", "-W", "-f", form]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True)
    lines = (line.split("\t") for line in done.stdout.splitlines())
    return {name: (depends, int(size or 0) * 1024) for name, depends, size in lines}


def _depends(name: str) -> set[str]:
    """The packages that one depends on and that are installed; of alternatives the first that is."""
    wanted = set()
    for choice in _known().get(name, ("", 0))[0].split(","):
        names = [re.sub(r"[ (:].*", "", one.strip()) for one in choice.split("|")]
        wanted |= set([one for one in names if one in _known()][:1])
    return wanted


def _installed_bytes(name: str) -> int:
    return _known().get(name, ("", 0))[1]
