"""Create and remove an instance that is never started."""

from __future__ import annotations

import time

from bench.core import workload
from bench.core.target import Cell, Parts, Target


def measure(target: Target, cell: Cell) -> Parts:
    """Seconds to create and to remove; a target that keeps nothing has nothing to provision."""
    provision = getattr(target, "provisioned", None)
    if provision is None:
        return workload.skipped(f"{target.name} keeps no instances")
    began_s = time.monotonic()
    with provision(cell):
        created_s = time.monotonic()
        removing_s = time.monotonic()
    return Parts(values={"create_s": created_s - began_s, "remove_s": time.monotonic() - removing_s})
