"""Everything behind one container, as the kernel tells it now, each with the command that shows or does it
by hand.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from containers import capabilities
from containers.plan import NAMESPACES

if TYPE_CHECKING:
    from containers.container import Container

_UNSHARE = {"time": "--time"} | {kind: option for kind, _, _, option in NAMESPACES}
_MEANING = {
    "user": "user and group ids",
    "mnt": "mounts",
    "pid": "process ids",
    "ipc": "System V IPC and POSIX message queues",
    "uts": "host name",
    "net": "network devices, addresses, routes, ports",
    "cgroup": "the root of /proc/self/cgroup",
    "time": "monotonic and boot clocks",
}


def explain(container: Container) -> str:
    """The running container told by the kernel; one that does not run is told by its plan."""
    pid = container.pid()
    if pid is None:
        return "It does not run. These commands would make it by hand:\n\n" + container.plan()
    sections = (
        (f"Process {pid} on this host", _process(pid)),
        ("Namespaces (own ones differ from ours)", _namespaces(pid)),
        ("Control group", _cgroup(container)),
        ("Mounts", _mounts(pid)),
        ("Rights", _rights(pid)),
        ("Network", _network(container, pid)),
        ("By hand", iter(container.plan().splitlines())),
    )
    return "\n\n".join(f"{title}\n" + "\n".join(f"  {line}" for line in lines) for title, lines in sections)


def _process(pid: int) -> Iterator[str]:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    yield f"{words.strip()}    # tr '\\0' ' ' < /proc/{pid}/cmdline"


def _namespaces(pid: int) -> Iterator[str]:
    for kind, meaning in _MEANING.items():
        theirs, ours = os.readlink(f"/proc/{pid}/ns/{kind}"), os.readlink(f"/proc/self/ns/{kind}")
        whose = f"its own: unshare {_UNSHARE[kind]}" if theirs != ours else "the host's"
        yield f"{theirs:<24} {whose:<32} {meaning}    # readlink /proc/{pid}/ns/{kind}"


def _cgroup(container: Container) -> Iterator[str]:
    group = container.cgroup()
    for directory in group.directories():
        yield directory
        for file in sorted(Path(directory).iterdir()):
            if file.name in _SHOWN:
                value = file.read_text().strip().replace("\n", ", ")
                yield f"  {file.name} = {value}    # echo VALUE > {file}"
    if not group.directories():
        yield f"none: {group.layout.why_not or 'no controller is mounted'}"


_SHOWN = frozenset(
    {
        "memory.limit_in_bytes",
        "memory.memsw.limit_in_bytes",
        "memory.usage_in_bytes",
        "memory.max",
        "memory.swap.max",
        "memory.current",
        "pids.max",
        "pids.current",
        "cpu.cfs_quota_us",
        "cpu.cfs_period_us",
        "cpu.shares",
        "cpu.max",
        "cpu.weight",
        "cpuset.cpus",
        "freezer.state",
        "cgroup.freeze",
        "devices.list",
        "io.max",
        "io.weight",
    }
)


def _mounts(pid: int) -> Iterator[str]:
    for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        words = left.split()
        fstype, source, options = right.split(" ", 2)
        told = f"{words[4]:<28} {fstype:<8} {source} {words[5]} {options}"
        yield f"{told}    # nsenter -t {pid} -m mount -t {fstype} ..."


def _rights(pid: int) -> Iterator[str]:
    text = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    for key, meaning in (
        ("CapBnd", "may ever have"),
        ("CapEff", "has now"),
        ("CapInh", "inherits"),
        ("CapAmb", "ambient"),
    ):
        names = ",".join(capabilities.names(int(fields[key], 16))) or "none"
        yield f"{key} {fields[key]} ({meaning}): {names}    # capsh --decode={fields[key]}"
    nnp = "set: no setuid program gains rights" if fields["NoNewPrivs"] == "1" else "not set"
    yield f"no_new_privs {nnp}    # setpriv --no-new-privs"
    filters = fields.get("Seccomp_filters", "?")
    mode = {"0": "off", "1": "strict", "2": f"filter, {filters} program(s)"}.get(fields["Seccomp"], "?")
    yield f"seccomp {mode}    # grep Seccomp /proc/{pid}/status"
    ids = " ".join(Path(f"/proc/{pid}/uid_map").read_text().split())
    yield f"uid map {ids}    # newuidmap {pid} INSIDE OUTSIDE COUNT"


def _network(container: Container, pid: int) -> Iterator[str]:
    for line in Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]:
        yield f"{line.partition(':')[0].strip()}    # nsenter -t {pid} -n ip addr"
    if container.networked() and os.geteuid() == 0:
        from host.linux import net

        for lease in net.leases_of(container.home, container.folder.name):
            yield f"{lease.interface} {lease.ip}/{lease.prefix} gateway {lease.gateway}"
            yield f"bridge {lease.bridge}, host end {lease.link}    # ip -d link show {lease.link}"
            for port in lease.ports:
                yield f"published {port}    # nft list table ip vmm"
            yield from net.by_hand(lease, pid)
