"""cgroups of a bundle: the path it names in every hierarchy of the host."""

from __future__ import annotations

import os
import signal
import time
from typing import NamedTuple

from containers.oci.bundle import Config
from host.errors import BadData, DeadlinePassed, HostUnfit, from_os_error
from host.linux import cgroup, cgroup_v1, cgroup_v2


class Hierarchy(NamedTuple):
    """One mounted hierarchy: its controllers (v2: empty) and our own process's path in it."""

    mountpoint: str
    controllers: tuple[str, ...]
    own: str


class Value(NamedTuple):
    """A value for a control file of a controller."""

    controller: str
    file: str
    value: str


def hierarchies() -> list[Hierarchy]:
    """The hierarchies of this host: all v1 ones, or v2 alone; a v2 mount without controllers beside v1 is
    left out.
    """
    own = {}
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        for line in file:
            _, names, path = line.rstrip("\n").split(":", 2)
            own[names] = path
    found: list[Hierarchy] = []
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            if " - cgroup" in line:
                _note(found, line, own)
    first = [one for one in found if one.controllers]
    return first or found


def _note(found: list[Hierarchy], line: str, own: dict[str, str]) -> None:
    left, _, right = line.partition(" - ")
    mountpoint, kind, options = left.split()[4], right.split()[0], right.split()[2].split(",")
    for names, path in own.items():
        listed = tuple(filter(None, names.split(",")))
        match = kind == "cgroup2" if not names else kind == "cgroup" and set(listed) <= set(options)
        if match and not any(one.controllers == listed for one in found):
            found.append(Hierarchy(mountpoint, listed, path))


def path_of(linux: Config, identity: str) -> str:
    """The path in each hierarchy; a relative one is taken below the root of the hierarchy, as runc does."""
    wanted = str(linux.get("cgroupsPath") or f"/vmm-oci/{identity}")
    parts = [part for part in wanted.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise BadData("cannot use cgroupsPath", wanted, "it holds ..")
    if ":" in wanted and not wanted.startswith("/"):
        raise HostUnfit(
            "cannot use cgroupsPath", wanted, "systemd's cgroups are not driven here", "use cgroupfs"
        )
    return "/" + "/".join(parts)


class Group:
    """The group of a container at one path in every hierarchy."""

    def __init__(self, path: str, where: list[Hierarchy] | None = None) -> None:
        self.path = path
        self.hierarchies = hierarchies() if where is None else where
        self.version = 1 if any(one.controllers for one in self.hierarchies) else 2

    def directory(self, controller: str) -> str | None:
        """The group's directory of a controller, whether it exists or not; None where the host has none."""
        for one in self.hierarchies:
            if self.version == 2 or controller in one.controllers:
                return one.mountpoint + self.path
        return None

    def directories(self) -> list[tuple[str, str]]:
        """(the hierarchy's directory name, the group's directory) of each, memory last."""
        pairs = [(os.path.basename(one.mountpoint), one.mountpoint + self.path) for one in self.hierarchies]
        return sorted(pairs, key=lambda pair: pair[0] == "memory")

    def create(self) -> None:
        """Make the directories with their parents."""
        for _, path in self.directories():
            mountpoint = path[: -len(self.path)]
            made = mountpoint
            for part in self.path.strip("/").split("/"):
                if self.version == 2:
                    cgroup_v2.enable_controllers(made)
                made = f"{made}/{part}"
                _mkdir(made)

    def apply(self, values: list[Value]) -> None:
        """Write control files in order; HostUnfit for a control that this host lacks."""
        for one in values:
            directory = self.directory(one.controller)
            what = f"cannot set {one.file} to {one.value}"
            if directory is None:
                raise HostUnfit(what, self.path, f"this host has no cgroup controller {one.controller}")
            try:
                cgroup.write(f"{directory}/{one.file}", one.value)
            except FileNotFoundError:
                raise HostUnfit(what, directory, "this kernel has no such control") from None
            except OSError as error:
                raise from_os_error(what, error, directory) from None

    def add(self, pid: int, memory: bool | None = None) -> None:
        """Move a process in; `memory` chooses the memory hierarchy only (True) or all others (False)."""
        for name, path in self.directories():
            is_memory = self.version == 1 and "memory" in name.split(",")
            if memory is None or is_memory == memory:
                cgroup.write(f"{path}/cgroup.procs", str(pid))

    def pids(self) -> list[int]:
        """The processes of the group and of the groups below it."""
        for _, path in self.directories():
            if os.path.isdir(path):
                return cgroup.pids_below(path)
        return []

    def _freezer(self) -> tuple[str, str, str]:
        directory = self.directory("freezer")
        if directory is None:
            raise HostUnfit("cannot pause", self.path, "this host has no freezer")
        return (
            (directory, "freezer.state", "FROZEN") if self.version == 1 else (directory, "cgroup.freeze", "1")
        )

    def frozen(self) -> bool:
        """Whether the group is frozen."""
        try:
            directory, file, state = self._freezer()
            with open(f"{directory}/{file}", encoding="ascii") as opened:
                return state in opened.read()
        except (OSError, HostUnfit):
            return False

    def freeze(self, frozen: bool, deadline_s: float = 10.0) -> None:
        """Freeze or thaw, and wait until it is so."""
        directory, file, state = self._freezer()
        words = (state if frozen else "THAWED") if self.version == 1 else str(int(frozen))
        until = time.monotonic() + deadline_s
        while True:
            cgroup.write(f"{directory}/{file}", words)  # v1: again, for what was forked meanwhile
            if self.frozen() == frozen:
                return
            if time.monotonic() > until:
                raise DeadlinePassed("cannot freeze", self.path, f"not done after {deadline_s:g} s")
            time.sleep(0.002)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to every process of the group."""
        for pid in self.pids():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def remove(self, deadline_s: float = 10.0) -> None:
        """Kill what is left, and remove the group's directories with those below."""
        until = time.monotonic() + deadline_s
        for _, path in self.directories():
            while not cgroup.removed(path):
                if self.frozen():
                    self.freeze(False)
                self.kill()
                if time.monotonic() > until:
                    raise DeadlinePassed("cannot remove the cgroup", path, "it still has processes")
                time.sleep(0.002)


def _mkdir(path: str) -> None:
    try:
        os.mkdir(path)
    except FileExistsError:
        return
    except OSError as error:
        raise from_os_error("cannot make the cgroup", error, path) from None
    places = (f"{path}/cpuset.mems", f"{os.path.dirname(path)}/cpuset.mems")
    if all(map(os.path.exists, places)) and not os.path.exists(f"{path}/cgroup.controllers"):
        cgroup_v1.inherit_cpuset(path)
