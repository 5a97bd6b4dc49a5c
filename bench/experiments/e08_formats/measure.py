"""The kernel interface that a static program meets: the host's, or the machine's own."""

from __future__ import annotations

import platform

from bench.core import workload
from bench.core.target import Cell, Parts, Target

BODY = """
echo kernel_is=$(uname -r)
echo cpus=$(grep -c ^processor /proc/cpuinfo)
"""


def measure(target: Target, cell: Cell) -> Parts:
    """A start for command mode; else `own_kernel` (1: another release than the host's) and `cpus`."""
    if cell.mode == "command":
        return target.run_once(cell)
    parts = workload.script(target, cell, BODY)
    own = f"kernel_is={platform.release()}" not in parts.output.splitlines()
    return workload.with_values(parts, {"own_kernel": float(own)}) if parts.status == "ok" else parts
