"""What a running container uses, who runs in it, and what it may use from now on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from host.errors import Failure, WrongState
from host.linux import cgroup
from host.linux.cgroup import Limits

if TYPE_CHECKING:
    from containers.container import Container


def stats(container: Container) -> dict[str, int]:
    """Counters of the cgroup and of the network namespace: bytes, ns and counts, by the names of `vmm
    stats`.
    """
    found = container.cgroup().stats()
    for ours, theirs in (("io_read_bytes", "block_read_bytes"), ("io_write_bytes", "block_write_bytes")):
        if ours in found:
            found[theirs] = found.pop(ours)
    pid = container.pid()
    if pid is not None:
        found |= _network(pid)
        found.setdefault("pids", len(processes(container)))
    return found


def _network(pid: int) -> dict[str, int]:
    received = sent = 0
    try:
        lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
    except OSError:
        return {}
    for line in lines:
        name, _, rest = line.partition(":")
        words = rest.split()
        if name.strip() != "lo":
            received, sent = received + int(words[0]), sent + int(words[8])
    return {"net_rx_bytes": received, "net_tx_bytes": sent}


def processes(container: Container) -> list[int]:
    """The host's pids of all its processes; without a cgroup those that share its pid namespace."""
    pids = container.cgroup().pids()
    init = container.pid()
    if pids or init is None:
        return pids
    try:
        namespace = os.stat(f"/proc/{init}/ns/pid").st_ino
    except OSError:
        return []
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and _namespace(name) == namespace]


def _namespace(pid: str) -> int:
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino
    except OSError:
        return 0


def top(container: Container) -> list[list[str]]:
    """One row a process, after a header: its pid inside and outside, user, state, CPU seconds, memory,
    command.
    """
    if container.pid() is None:
        raise WrongState("cannot show the processes of", container.spec.name, "it is not running")
    rows = [["PID", "HOST PID", "UID", "STATE", "CPU", "RSS", "COMMAND"]]
    for pid in sorted(processes(container)):
        row = _row(pid)
        if row:
            rows.append(row)
    return rows


def _row(pid: int) -> list[str] | None:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        words = (
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        )
    except OSError:
        return None
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    cpu_s = (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
    memory = fields.get("VmRSS", "0 kB").strip()
    inside = fields["NSpid"].split()[-1]
    return [
        inside,
        str(pid),
        fields["Uid"].split()[0],
        stat[0],
        f"{cpu_s:.2f}",
        memory,
        words or f"[{fields['Name']}]",
    ]


def update(container: Container, limits: Limits) -> Limits:
    """Impose `limits` on the running container where they are not None; the limits that hold from now on.

    Raises Failure where the kernel refuses, and then puts back what was there.
    """
    old = container.spec.limits
    changed = {key: value for key, value in limits._asdict().items() if value not in (None, ())}
    wanted = old._replace(**changed)
    group = container.cgroup()
    if not group.directories():
        return wanted  # it holds from the next start
    try:
        _impose(group, wanted, old)
    except Failure:
        _impose(group, old, wanted)
        raise
    return wanted


def _impose(group: cgroup.Cgroup, wanted: Limits, old: Limits) -> None:
    version = group.layout.version
    settings = cgroup.settings(version, wanted)
    group.refuse_missing(settings)
    group.require(dict.fromkeys(one.controller for one in settings))
    if (wanted.memory_bytes or 0) > (old.memory_bytes or 0):
        # v1: memory+swap may never be below memory, so it goes up first and comes down last
        settings.sort(key=lambda one: one.file != "memory.memsw.limit_in_bytes")
    group.apply(settings)
