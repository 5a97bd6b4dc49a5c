"""Limits and counters in the words of cgroup v2: admin-guide/cgroup-v2.rst."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from host.linux.cgroup import DEFAULT_PIDS, PARENT, Limits, Setting, read, write

PERIOD_US = 100_000


def settings(limits: Limits) -> list[Setting]:
    """The v2 control files and values that impose `limits`."""
    return [*_memory(limits), *_cpu(limits), *_pids(limits), *_io(limits)]


def weight(shares: int) -> int:
    """cpu.weight (1 to 10000) for v1 shares (2 to 262144), on the line that runc and crun draw."""
    return 1 + (max(2, min(shares, 262_144)) - 2) * 9999 // 262_142


def _memory(limits: Limits) -> list[Setting]:
    if limits.memory_bytes is None:
        return []
    swap = "max" if limits.swap_bytes == -1 else str(limits.swap_bytes or 0)
    return [
        Setting("memory", "memory.max", str(limits.memory_bytes)),
        Setting("memory", "memory.swap.max", swap, limits.swap_bytes is not None),
    ]


def _cpu(limits: Limits) -> list[Setting]:
    wanted = []
    if limits.shares is not None:
        wanted.append(Setting("cpu", "cpu.weight", str(weight(limits.shares))))
    if limits.cpus is not None:
        wanted.append(Setting("cpu", "cpu.max", f"{max(1000, round(limits.cpus * PERIOD_US))} {PERIOD_US}"))
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
        wanted.append(Setting("io", "io.weight", str(limits.io_weight)))
    for device, way, rate in limits.io_bps:
        wanted.append(Setting("io", "io.max", f"{device} {way[0]}bps={rate}"))
    for device, way, rate in limits.io_iops:
        wanted.append(Setting("io", "io.max", f"{device} {way[0]}iops={rate}"))
    return wanted


_COUNTERS = {
    "memory_bytes": ("memory.current", "", 1),
    "memory_peak_bytes": ("memory.peak", "", 1),
    "memory_limit_bytes": ("memory.max", "", 1),
    "oom_kills": ("memory.events", "oom_kill", 1),
    "anon_bytes": ("memory.stat", "anon", 1),
    "file_bytes": ("memory.stat", "file", 1),
    "inactive_file_bytes": ("memory.stat", "inactive_file", 1),
    "kernel_bytes": ("memory.stat", "kernel", 1),
    "cpu_ns": ("cpu.stat", "usage_usec", 1000),
    "cpu_throttled_ns": ("cpu.stat", "throttled_usec", 1000),
    "pids": ("pids.current", "", 1),
    "pids_limit": ("pids.max", "", 1),
}


def stats(directories: dict[str, Path]) -> dict[str, int]:
    """The counters of a group, which has one directory on v2."""
    directory = next(iter(directories.values()), None)
    if directory is None:
        return {}
    found = {}
    for name, (file, key, factor) in _COUNTERS.items():
        value = _counter(directory / file, key)
        if value is not None:
            found[name] = value * factor
    return found | _io_bytes(directory / "io.stat")


def _counter(path: Path, key: str) -> int | None:
    try:
        text = path.read_text()
    except OSError:
        return None
    if not key:
        return int(text) if text.strip().isdigit() else None
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name == key:
            return int(value)
    return None


def _io_bytes(path: Path) -> dict[str, int]:
    try:
        words = path.read_text().split()
    except OSError:
        return {}
    pairs = [word.partition("=") for word in words if "=" in word]
    taken = sum(int(value) for key, _, value in pairs if key == "rbytes")
    written = sum(int(value) for key, _, value in pairs if key == "wbytes")
    return {"io_read_bytes": taken, "io_write_bytes": written}


def enable_controllers(path: str) -> None:
    """Give every controller of the group at `path` to the groups below it.

    Domain controllers first, which want our processes out of the way: a group that has processes and hands
    on a threaded one (cpu, cpuset, pids) is the root of a threaded subtree, where no domain controller can be
    enabled and no process moved any more (cgroup-v2.rst, Threads).
    """
    names = read(f"{path}/cgroup.controllers").split()
    for name in sorted(names, key=_THREADED.__contains__):
        try:
            if not _enabled(path, name):
                _move_into_leaf(path)
                _enabled(path, name)
        except OSError:
            pass  # told later, by the limit that cannot be set


_THREADED = ("cpu", "cpuset", "perf_event", "pids")


def _enabled(path: str, name: str) -> bool:
    """Give a controller to the groups below; False where processes of the group's own are in the way."""
    try:
        write(f"{path}/cgroup.subtree_control", f"+{name}")
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


def _move_into_leaf(path: str) -> None:
    """Only leaves may have processes (cgroup-v2.rst, No Internal Process Constraint), and a unit that systemd
    delegated has us in it.
    """
    leaf = f"{path}/{PARENT}-callers"
    try:
        os.mkdir(leaf)
    except FileExistsError:
        pass
    for pid in read(f"{path}/cgroup.procs").split():
        try:
            write(f"{leaf}/cgroup.procs", pid)
        except ProcessLookupError:
            pass
