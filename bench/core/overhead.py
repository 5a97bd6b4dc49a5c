"""What the harness itself costs, measured on this host: inside the timed interval and around it."""

from __future__ import annotations

import os
import struct
import threading
import time
from statistics import median

from bench.core import worker
from bench.core.target import Parts

ROUNDS = 30


def measured(rounds: int = ROUNDS) -> dict[str, float]:
    """Medians: two stamps in a row, waking on a byte in a pipe (both part of every start), a worker."""
    return {
        "stamp_ns": float(_stamp_ns(rounds * 10)),
        "wake_ns": float(_wake_ns(rounds)),
        "worker_s": _worker_s(max(rounds // 3, 3)),
    }


def _stamp_ns(rounds: int) -> float:
    return median(time.monotonic_ns() - time.monotonic_ns() for _ in range(rounds)) * -1


def _wake_ns(rounds: int) -> float:
    """From a writer's stamp just before write(2) to ours just after read(2): how late t8 is."""
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    found: list[int] = []
    try:
        for _ in range(rounds):
            writer = threading.Timer(
                0.001, lambda: os.write(write_fd, struct.pack("<q", time.monotonic_ns()))
            )
            writer.start()
            data = os.read(read_fd, 8)
            found.append(time.monotonic_ns() - struct.unpack("<q", data)[0])
            writer.join()
    finally:
        os.close(read_fd)
        os.close(write_fd)
    return median(found)


def _worker_s(rounds: int) -> float:
    found = []
    for _ in range(rounds):
        began_s = time.monotonic()
        list(worker.runs(Parts, 1, 10.0))
        found.append(time.monotonic() - began_s)
    return median(found)
