"""Limits and counters in the words of cgroup v1: cgroup-v1/{memory,cpusets,pids,blkio-controller}.rst."""

from __future__ import annotations

import os
from pathlib import Path

from host.linux.cgroup import DEFAULT_PIDS, Limits, Setting, read, write

PERIOD_US = 100_000


def settings(limits: Limits) -> list[Setting]:
    """The v1 control files and values that impose `limits`."""
    return [*_memory(limits), *_cpu(limits), *_pids(limits), *_io(limits)]


def _memory(limits: Limits) -> list[Setting]:
    if limits.memory_bytes is None:
        return []
    both = limits.memory_bytes + max(limits.swap_bytes or 0, 0)
    memsw = "-1" if limits.swap_bytes == -1 else str(both)
    return [
        Setting("memory", "memory.limit_in_bytes", str(limits.memory_bytes)),
        Setting("memory", "memory.memsw.limit_in_bytes", memsw, limits.swap_bytes is not None),
    ]


def _cpu(limits: Limits) -> list[Setting]:
    wanted = []
    if limits.shares is not None:
        wanted.append(Setting("cpu", "cpu.shares", str(limits.shares)))
    if limits.cpus is not None:
        wanted.append(Setting("cpu", "cpu.cfs_period_us", str(PERIOD_US)))
        wanted.append(Setting("cpu", "cpu.cfs_quota_us", str(max(1000, round(limits.cpus * PERIOD_US)))))
    if limits.cpuset is not None:
        wanted.append(Setting("cpuset", "cpuset.cpus", limits.cpuset))
    return wanted


def _pids(limits: Limits) -> list[Setting]:
    if limits.pids is None:
        return [Setting("pids", "pids.max", str(DEFAULT_PIDS), asked=False)]
    return [Setting("pids", "pids.max", "max" if limits.pids < 0 else str(limits.pids))]


def _io(limits: Limits) -> list[Setting]:
    wanted = []
    if limits.io_weight is not None:
        wanted.append(Setting("blkio", "blkio.bfq.weight", str(limits.io_weight)))
    for device, way, rate in limits.io_bps:
        wanted.append(Setting("blkio", f"blkio.throttle.{way}_bps_device", f"{device} {rate}"))
    for device, way, rate in limits.io_iops:
        wanted.append(Setting("blkio", f"blkio.throttle.{way}_iops_device", f"{device} {rate}"))
    return wanted


_COUNTERS = {
    "memory_bytes": ("memory", "memory.usage_in_bytes", ""),
    "memory_peak_bytes": ("memory", "memory.max_usage_in_bytes", ""),
    "memory_limit_bytes": ("memory", "memory.limit_in_bytes", ""),
    "oom_kills": ("memory", "memory.oom_control", "oom_kill"),
    "anon_bytes": ("memory", "memory.stat", "total_rss"),
    "file_bytes": ("memory", "memory.stat", "total_cache"),
    "inactive_file_bytes": ("memory", "memory.stat", "total_inactive_file"),
    "kernel_bytes": ("memory", "memory.kmem.usage_in_bytes", ""),
    "cpu_ns": ("cpuacct", "cpuacct.usage", ""),
    "cpu_throttled_ns": ("cpu", "cpu.stat", "throttled_time"),
    "pids": ("pids", "pids.current", ""),
    "pids_limit": ("pids", "pids.max", ""),
    "io_read_bytes": ("blkio", "blkio.throttle.io_service_bytes_recursive", "Read"),
    "io_write_bytes": ("blkio", "blkio.throttle.io_service_bytes_recursive", "Write"),
}


def stats(directories: dict[str, Path]) -> dict[str, int]:
    """The counters of a group, from the directory of each controller."""
    found = {}
    for name, (controller, file, key) in _COUNTERS.items():
        if controller in directories:
            value = _counter(directories[controller] / file, key)
            if value is not None:
                found[name] = value
    return found


def _counter(path: Path, key: str) -> int | None:
    try:
        text = path.read_text()
    except OSError:
        return None
    if not key:
        word = text.strip()
        return int(word) if word.isdigit() and int(word) < 1 << 62 else None
    found = [line.split()[-1] for line in text.splitlines() if key in line.split()[:-1]]
    return sum(map(int, found)) if found else None


def inherit_cpuset(path: str) -> None:
    """Give a new group the parent's cpus and nodes: an empty one takes no process, ENOSPC (cpusets.rst)."""
    for file in ("cpuset.cpus", "cpuset.mems"):
        if not read(f"{path}/{file}").strip():
            write(f"{path}/{file}", read(f"{os.path.dirname(path)}/{file}").strip())
