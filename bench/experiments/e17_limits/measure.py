"""A program asks for three times its limit and touches all of it."""

from __future__ import annotations

from bench.core import workload
from bench.core.target import Cell, Parts, Target

# dd reads one block of 384 MiB: its buffer is written to the last page.
BODY = "dd if=/dev/zero of=/dev/null bs=384M count=1 2>/dev/null && echo held_limit=0 || echo held_limit=1"


def measure(target: Target, cell: Cell) -> Parts:
    """`held_limit` is 1 where the program was refused or killed, and the instance lived to tell it."""
    return workload.script(target, cell, BODY)
