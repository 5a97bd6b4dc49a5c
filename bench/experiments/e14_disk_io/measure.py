"""fio: a sequential write with one flush at its end, small flushed writes, random reads and writes."""

from __future__ import annotations

from bench.core.target import Cell, Parts, Target
from bench.experiments import generators

FIO = "mkdir -p /fio && fio --name=job --directory=/fio --output-format=json"
SECOND = "--time_based --runtime=1 --bs=4k --size=32M"
DIRECT = "--direct=1 --ioengine=libaio --iodepth=16"
WORK = {
    "write": (f"{FIO} --rw=write --bs=1M --size=64M --end_fsync=1 --ioengine=psync", "write"),
    "sync": (f"{FIO} {SECOND} --rw=write --fsync=1 --ioengine=psync", "write"),
    "randread": (f"{FIO} {SECOND} {DIRECT} --rw=randread", "read"),
    "randwrite": (f"{FIO} {SECOND} {DIRECT} --rw=randwrite", "write"),
}


def measure(target: Target, cell: Cell) -> Parts:
    """fio's rates and its median latency."""
    command, way = WORK[str(cell.param("work", "write"))]
    return generators.measured(target, cell, command, generators.fio(way))
