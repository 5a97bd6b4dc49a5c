"""Starts as the target makes them; in workload mode, whole `exec` commands in a held instance."""

from __future__ import annotations

import subprocess
import time

from bench.core import workload
from bench.core.target import Cell, Parts, Target

EXECS = 10


def measure(target: Target, cell: Cell) -> Parts | tuple[Parts, ...]:
    """A start, or `exec_s` of ten `exec NAME true`."""
    if cell.mode != "workload":
        return target.run_once(cell)
    with target.hold(cell) as held:
        make_argv = getattr(held, "exec_argv", None)
        if make_argv is None:
            return workload.skipped(f"{target.name} has no exec")
        argv = make_argv(("true",))
        return tuple(_executed(argv, held.accelerator) for _ in range(EXECS))


def _executed(argv: list[str], accelerator: str | None) -> Parts:
    began_s = time.monotonic()
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False)
    took_s = time.monotonic() - began_s
    error = done.stderr.decode(errors="replace")[-300:] if done.returncode else None
    status = "failed" if done.returncode else "ok"
    return Parts(status, {}, {"exec_s": took_s}, done.returncode, accelerator, error)
