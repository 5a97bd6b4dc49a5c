"""crun: runc's work in C."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager

from bench.core.target import Cell
from bench.targets.runc import Runc
from host.linux import syscalls

UNIFIED = "/sys/fs/cgroup/unified"


class Crun(Runc):
    """`crun run` of runc's bundle, cgroups by cgroupfs."""

    name = "crun"

    @contextmanager
    def _bundle(self, cell: Cell, inside: tuple[str, ...]) -> Iterator[list[str]]:
        with super()._bundle(cell, inside) as argv:
            # crun 1.8 refuses a host with both cgroup versions; in the worker's own mount namespace there is
            # only one from here on.
            if os.path.ismount(UNIFIED):
                with contextlib.suppress(OSError):
                    syscalls.umount2(UNIFIED.encode(), syscalls.MNT_DETACH)
            yield argv

    def _program(self) -> list[str]:
        return ["crun", "--cgroup-manager=cgroupfs"]
