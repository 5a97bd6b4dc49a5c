"""Memory of an idle instance as a vector: no single number is true (reference: proc(5), smaps_rollup)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from bench.core.target import Cell, Held, Parts, Target

SETTLE_S = 2.0
KIND = {"Pss": "pss_bytes", "Rss": "rss_bytes", "Private_Clean": "uss_bytes", "Private_Dirty": "uss_bytes",
        "Private_Hugetlb": "uss_bytes"}  # fmt: skip
BACKING = {"Pss_Anon": "anon", "Pss_File": "file", "Pss_Shmem": "shmem"}


def memory(target: Target, cell: Cell) -> Parts:
    """Start an instance, leave it alone for two seconds, and weigh it."""
    with target.hold(cell) as held:
        time.sleep(SETTLE_S)
        return Parts(values=weigh(held), accelerator=held.accelerator)


def slope(target: Target, cell: Cell, settle: Callable[[], None] | None = None) -> tuple[Parts, ...]:
    """Start instances one by one and read MemAvailable at 1, 2, 4 ... `instances`: what each costs the host.

    It sees page tables, kernel memory and daemons, which no sum over processes does, and every neighbour too.
    Beside it stand how long the last start took and the processes' PSS by kind (`all_pss_anon_bytes`, ...).
    """
    most = int(cell.param("instances", 8))
    found: list[Parts] = []
    instances: list[Held] = []
    with contextlib.ExitStack() as stack:
        before = settled_available_bytes()
        for count in range(1, most + 1):
            began_s = time.monotonic()
            held = stack.enter_context(target.hold(cell))
            took_s = time.monotonic() - began_s
            instances.append(held)
            if count & (count - 1) and count != most:
                continue
            if settle is not None:
                settle()
            drop = before - settled_available_bytes()
            values = {"instances": float(count), "mem_available_drop_bytes": float(drop),
                      "start_of_this_s": took_s, **by_backing(instances)}  # fmt: skip
            found.append(Parts(values=values, accelerator=held.accelerator))
    return tuple(found)


def by_backing(instances: Iterable[Held]) -> dict[str, float]:
    """PSS of all processes of all instances: anonymous, file-backed and shared memory (guest RAM is the
    latter where it is a memfd or a template).
    """
    total = {f"all_pss_{kind}_bytes": 0.0 for kind in BACKING.values()}
    for pid in set[int]().union(*(held.pids() for held in instances)):
        for name, size_bytes in _rollup(pid):
            if name in BACKING:
                total[f"all_pss_{BACKING[name]}_bytes"] += size_bytes
    return total


def weigh(held: Held) -> dict[str, float]:
    """PSS, USS, RSS summed over all host processes of the instance, its cgroup's split, the guest's view."""
    return {**processes(held.pids()), **cgroup(held.cgroups()), **held.guest_values()}


def processes(pids: Iterable[int]) -> dict[str, float]:
    """Sums over processes from /proc/PID/smaps_rollup; one that has just ended counts nothing."""
    total = dict.fromkeys(("pss_bytes", "uss_bytes", "rss_bytes", "host_processes"), 0.0)
    for pid in pids:
        found = _rollup(pid)
        total["host_processes"] += bool(found)
        for name, size_bytes in found:
            if name in KIND:
                total[KIND[name]] += size_bytes
    return total


def _rollup(pid: int) -> list[tuple[str, int]]:
    """The lines of /proc/PID/smaps_rollup in bytes; none of a process that has just ended."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        return [(name, int(rest.split()[0]) << 10) for name, _, rest in (one.partition(":") for one in lines)]
    return []


def cgroup(folders: Iterable[str]) -> dict[str, float]:
    """Anonymous memory, page cache and kernel memory that the cgroups are charged for (v2 and v1 names)."""
    total: dict[str, float] = {}
    for folder in map(Path, folders):
        with contextlib.suppress(OSError):
            pairs = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
            stat = {pair[0]: float(pair[1]) for pair in pairs}
            kernel = stat.get("kernel", _number(folder / "memory.kmem.usage_in_bytes"))
            split = {"anon": stat.get("anon", stat.get("total_rss", 0.0)),
                     "file": stat.get("file", stat.get("total_cache", 0.0)), "kernel": kernel}  # fmt: skip
            for kind, count in split.items():
                total[f"cgroup_{kind}_bytes"] = total.get(f"cgroup_{kind}_bytes", 0.0) + count
    return total


def settled_available_bytes(wait_s: float = 3.0, step_s: float = 0.25) -> int:
    """MemAvailable once two readings a step apart differ by less than 256 KiB, or after `wait_s`."""
    last, until_s = available_bytes(), time.monotonic() + wait_s
    while time.monotonic() < until_s:
        time.sleep(step_s)
        now = available_bytes()
        if abs(now - last) < 256 << 10:
            return now
        last = now
    return last


def available_bytes() -> int:
    """MemAvailable of /proc/meminfo."""
    return _meminfo_bytes("MemAvailable:")


def total_bytes() -> int:
    """MemTotal of /proc/meminfo."""
    return _meminfo_bytes("MemTotal:")


def _meminfo_bytes(name: str) -> int:
    with open("/proc/meminfo") as text:
        for line in text:
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    return 0


def descendants(of: int) -> set[int]:
    """The process and all its living descendants."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                # comm may hold spaces and brackets: the fields follow its last one (proc(5))
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    found, grown = {of}, True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found |= more
        grown = bool(more)
    return found


def _number(path: Path) -> float:
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return 0.0
