"""Starts with and without a network; and bytes through the loopback of the instance's own network stack."""

from __future__ import annotations

from bench.core import workload
from bench.core.target import Cell, Parts, Target

MIB = 4
BODY = f"""
ip link set lo up 2>/dev/null
nc -l -p 7007 -e cat >/dev/null 2>&1 & server=$!
sleep 0.3
dd if=/dev/zero bs=64k count={MIB * 16} 2>/dev/null | nc 127.0.0.1 7007 -w 2 > /dev/null
kill $server 2>/dev/null
"""


def measure(target: Target, cell: Cell) -> Parts:
    """A start for command mode; else the rate of an echo over the loopback, both ways counted once."""
    if cell.mode == "command":
        return target.run_once(cell)
    return workload.per_second(workload.script(target, cell, BODY), "echoed_mib", float(MIB))
