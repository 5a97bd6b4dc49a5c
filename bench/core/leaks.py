"""What a run leaves behind: processes, mounts, cgroups, network links, files."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from host.linux import syscalls

CGROUP_ROOT = Path("/sys/fs/cgroup")
CGROUP_DEPTH = 3
# Orphans come to us and watched folders are ours; mounts, cgroups and links are everybody's.
OURS = ("process", "file")


class Litter(NamedTuple):
    """One thing that was not there before: its kind (process, mount, cgroup, link, file) and its name."""

    kind: str
    what: str


Snapshot = frozenset[Litter]


def adopt_orphans() -> None:
    """Make this process the parent of every orphan below it, so that a stray process cannot hide at init."""
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)


def snapshot(watched: Iterable[Path] = ()) -> Snapshot:
    """Mounts, cgroups, links, and the entries of the watched directories, as they are now."""
    found = {Litter("mount", point) for point in _mounts()}
    found |= {Litter("cgroup", path) for path in _cgroups(CGROUP_ROOT, CGROUP_DEPTH)}
    found |= {Litter("link", name) for _, name in socket.if_nameindex()}
    found |= {Litter("file", str(folder / name)) for folder in watched for name in _entries(folder)}
    return frozenset(found)


def children() -> frozenset[int]:
    """Our own children, dead ones too (proc(5), children)."""
    with contextlib.suppress(OSError):
        return frozenset(map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()))
    return frozenset()


def end_strays(known: frozenset[int], daemons: Iterable[str] = (), grace_s: float = 0.3) -> list[Litter]:
    """Reap what ended, kill every other child that is not `known`; tells the ones that had to be killed.

    A process whose command line has a word of `daemons` is meant to stay: it serves the instances to come.
    """
    killed: list[Litter] = []
    until_s = time.monotonic() + grace_s
    words = tuple(daemons)
    while strays := _alive(pid for pid in children() - known if not _is_daemon(pid, words)):
        if time.monotonic() < until_s:
            time.sleep(0.01)
            continue
        for pid in strays:
            killed.append(Litter("process", f"{pid} {_name(pid)}"))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until_s = time.monotonic() + grace_s  # their children come to us next
    return killed


def _alive(pids: Iterable[int]) -> list[int]:
    """Those that still run; ended ones are reaped."""
    running = []
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG) == (0, 0):
                running.append(pid)
    return running


def is_kept(litter: Litter, names: Iterable[str]) -> bool:
    """Whether it is a file of a daemon that is meant to stay."""
    return litter.kind == "file" and os.path.basename(litter.what) in names


def _is_daemon(pid: int, words: tuple[str, ...]) -> bool:
    name = _name(pid) if words else ""
    return any(word in name for word in words)


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return line.strip()[:120]
    return "?"


def _mounts() -> list[str]:
    with contextlib.suppress(OSError):
        return [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return []


def _cgroups(folder: Path, depth: int) -> Iterable[str]:
    if depth == 0:
        return
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield entry.path
                yield from _cgroups(Path(entry.path), depth - 1)


def _entries(folder: Path) -> list[str]:
    """The names in a watched directory; hidden ones are its owner's locks and records, and stay."""
    with contextlib.suppress(OSError):
        return [name for name in os.listdir(folder) if not name.startswith(".")]
    return []
