"""Commands whose exit status everybody should report alike (sh(1), docker-run(1))."""

from __future__ import annotations

from dataclasses import replace

from bench.core.target import Cell, Parts, Target

ASKS: dict[str, tuple[tuple[str, ...], int]] = {
    "status": (("sh", "-c", "exit 7"), 7),
    "signal": (("sh", "-c", "kill -TERM $$"), 128 + 15),
    "missing": (("/bin/there-is-none",), 127),
    "not_executable": (("/etc/passwd",), 126),
}


def measure(target: Target, cell: Cell) -> Parts:
    """`as_expected` is 1 where the status is the one that a shell would give."""
    command, expected = ASKS[str(cell.param("asks", "status"))]
    parts = target.run_once(replace(cell, command=command))
    if parts.exit_status is None:
        return parts
    values = {"exit_status": float(parts.exit_status), "as_expected": float(parts.exit_status == expected)}
    return replace(parts, status="ok", error=None, values=values)
