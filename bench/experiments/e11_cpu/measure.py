"""Computing and memory (sysbench), system calls and processes (stress-ng), for a second each."""

from __future__ import annotations

from bench.core.target import Cell, Parts, Target
from bench.experiments import generators

WORK = {
    "cpu": ("sysbench cpu --cpu-max-prime=2000 --time=1 run",
            generators.number(r"events per second: +([\d.]+)", "events_per_second")),
    "memory": ("sysbench memory --memory-block-size=1M --memory-total-size=1T --time=1 run",
               generators.number(r"\(([\d.]+) MiB/sec\)", "mib_per_second")),
    "syscalls": ("stress-ng --null 1 -t 1 --metrics-brief", generators.stress("null", "calls_per_second")),
    "processes": ("stress-ng --fork 1 -t 1 --metrics-brief",
                  generators.stress("fork", "processes_per_second")),
}  # fmt: skip


def measure(target: Target, cell: Cell) -> Parts:
    """The generator's rate."""
    command, read = WORK[str(cell.param("work", "cpu"))]
    return generators.measured(target, cell, command, read)
