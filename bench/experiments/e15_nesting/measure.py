"""Ten times unshare(1) with mount, pid, uts and ipc namespaces, on the host and in a machine."""

from __future__ import annotations

from bench.core import workload
from bench.core.target import Cell, Parts, Target

COUNT = 10
BODY = f"i=0; while [ $i -lt {COUNT} ]; do unshare -mpfui true || exit 9; i=$((i+1)); done"


def measure(target: Target, cell: Cell) -> Parts:
    """`sandbox_s`: one namespace sandbox made and ended."""
    parts = workload.script(target, cell, BODY)
    each_s = parts.values.get("work_s", 0.0) / COUNT
    return workload.with_values(parts, {"sandbox_s": each_s}) if parts.status == "ok" else parts
