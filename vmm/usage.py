"""What a running machine uses of its host: processor, memory, block devices."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from host.errors import Failure
from vmm import monitor

if TYPE_CHECKING:
    from vmm.machine import Machine


def stats(machine: Machine) -> dict[str, Any]:
    """cpu_ns, memory_bytes (resident in QEMU), limits, threads, block bytes; empty where it does not run.

    Sources: proc(5) stat and statm, QMP query-blockstats. QEMU's user network counts nothing: net is None.
    """
    pid = machine.pid()
    if pid is None:
        return {}
    blocks = block_stats(machine)
    return {
        "cpu_ns": cpu_ns(pid),
        "memory_bytes": resident_bytes(pid),
        "memory_limit_bytes": machine.spec.memory_bytes,
        "pids": len(os.listdir(f"/proc/{pid}/task")),
        "net_rx_bytes": None,
        "net_tx_bytes": None,
        "block_read_bytes": sum(one["rd_bytes"] for one in blocks),
        "block_write_bytes": sum(one["wr_bytes"] for one in blocks),
    }


def cpu_ns(pid: int) -> int:
    """User and system time of a process with all its threads, in ns."""
    # The name in brackets may hold blanks: count the fields after the last bracket.
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(words[11]) + int(words[12])
    return ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """The resident set of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def memory_cgroups(pid: int) -> list[str]:
    """The directories of the memory cgroup that a process is in, where it is not the root's (cgroups(7))."""
    found = []
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if path != "/" and controllers in ("", "memory"):
            base = Path("/sys/fs/cgroup", *([controllers] if controllers else []))
            found += [str(base / path[1:])] if (base / path[1:]).is_dir() else []
    return found


def memory_beyond_guest(pid: int, guest_bytes: int) -> dict[str, int]:
    """Proportional memory of QEMU, split into the guest's RAM mapping and all the rest of the process.

    Of the rest, `translated_` is TCG's buffer of translated code and `files_` what is mapped from files: QEMU
    itself, its libraries, the guest kernel, which all machines share. Source: proc(5) smaps; the guest's RAM
    is the mapping as large as it, TCG's buffer the one that is both written and executed.
    """
    found = {"guest": 0, "translated": 0, "files": 0, "own": 0}
    size, mapping = 0, ["", ""]
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        word, _, value = line.partition(":")
        if word == "Size":
            size = int(value.split()[0]) << 10
        elif word == "Pss":
            found[_holds(mapping, size, guest_bytes)] += int(value.split()[0]) << 10
        elif "-" in word:
            mapping = line.split()
    rest = found["translated"] + found["files"] + found["own"]
    names = {name: found[name] for name in ("guest", "translated", "files")}
    return {f"{name}_pss_bytes": size for name, size in names.items()} | {"vmm_pss_bytes": rest}


def _holds(mapping: list[str], size: int, guest_bytes: int) -> str:
    """What a mapping of QEMU holds; the fields are those of a line of proc(5) maps."""
    if size == guest_bytes:
        return "guest"
    if mapping[1].startswith("rwx"):
        return "translated"
    return "files" if mapping[-1].startswith("/") and not mapping[-1].startswith("/dev/") else "own"


def block_stats(machine: Machine) -> list[dict[str, int]]:
    """The counters of each block device, from QEMU; empty where it does not answer in time."""
    try:
        with monitor.connect(machine.run_dir / "query", 0.2) as query:
            return [dict(one["stats"]) for one in query.execute("query-blockstats", timeout_s=0.2)]
    except (Failure, OSError):
        return []
