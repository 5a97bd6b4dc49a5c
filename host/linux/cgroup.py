"""Control groups, one API over v1 (a hierarchy for each controller) and v2 (one for all); no systemd assumed.

Only directories made here are ever limited, frozen, killed or removed. Kernel documents:
admin-guide/cgroup-v1/, admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from host.errors import DeadlinePassed, Failure, HostUnfit, from_os_error

PARENT = "vmm"
DEFAULT_PIDS = 2048
DELEGATION_HINT = (
    "log in through systemd and run `systemd-run --user --scope -p Delegate=yes vmm ...`, run as root, "
    "or leave the limit out"
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a container may use; None is unlimited, except `pids`, whose None is DEFAULT_PIDS and -1 unlimited.

    `swap_bytes` is swap beyond memory (0 where memory is limited and nothing was said). `io_bps` and `io_iops`
    are (device "MAJOR:MINOR", "read" or "write", rate a second).
    """

    memory_bytes: int | None = None
    swap_bytes: int | None = None
    cpus: float | None = None
    shares: int | None = None
    cpuset: str | None = None
    pids: int | None = None
    io_weight: int | None = None
    io_bps: tuple[tuple[str, str, int], ...] = ()
    io_iops: tuple[tuple[str, str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Setting:
    """One value in one control file; `asked` tells a user's wish from a default that may be left out."""

    controller: str
    file: str
    value: str
    asked: bool = True


@dataclass(frozen=True, slots=True)
class Layout:
    """Where this host's controllers are: `version` and, for each controller, the directory we may create in."""

    version: int
    bases: dict[str, Path] = field(default_factory=dict)
    why_not: str = ""

    def controllers(self, wanted: Iterable[str]) -> list[str]:
        """Those of `wanted` that exist here, in that order."""
        return [name for name in wanted if name in self.bases]


# What every container gets: accounting for stats, the freezer for pause, and the two limits with a default.
DEFAULT_CONTROLLERS = ("pids", "devices", "freezer", "cpuacct", "memory")


def layout() -> Layout:
    """Find this process's hierarchies and where it may create; reads /proc/self/{mountinfo,cgroup} only."""
    own = _own_paths(Path("/proc/self/cgroup").read_text())
    v1, v2 = _mounts(Path("/proc/self/mountinfo").read_text())
    unified = _unified(v2, own.get("", "/")) if v2 else None
    if unified and {"memory", "pids"} & set(unified.bases):
        return unified
    bases = {}
    for controller, mountpoint in v1.items():
        base = _creatable(mountpoint, own.get(controller, "/"))
        if base:
            bases[controller] = base
    if bases or not unified:
        why = "" if bases else "no cgroup controller is delegated to this user"
        return Layout(1 if v1 else 2, bases, why)
    return unified


def _own_paths(text: str) -> dict[str, str]:
    paths = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            paths[controller] = path
    return paths


def _mounts(text: str) -> tuple[dict[str, Path], Path | None]:
    v1: dict[str, Path] = {}
    v2: Path | None = None
    for line in text.splitlines():
        if " - cgroup" not in line:
            continue
        left, _, right = line.partition(" - ")
        mountpoint, fstype, options = left.split()[4], right.split()[0], right.split()[2]
        if fstype == "cgroup2":
            v2 = v2 or Path(mountpoint)
        elif fstype == "cgroup":
            for controller in options.split(","):
                v1.setdefault(controller, Path(mountpoint))
    return {name: where for name, where in v1.items() if name in _V1_CONTROLLERS}, v2


_V1_CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "pids", "blkio", "freezer", "devices")


def _unified(mountpoint: Path, own: str) -> Layout:
    base = _creatable(mountpoint, own)
    if base is None:
        return Layout(2, {}, "no cgroup is delegated to this user")
    names = (base / "cgroup.controllers").read_text().split()
    return Layout(2, {name: base for name in names})


def _creatable(mountpoint: Path, own: str) -> Path | None:
    """Root creates at the hierarchy's root, as docker does; a user in the highest group that is delegated to it."""
    if os.geteuid() == 0 and os.access(mountpoint, os.W_OK):
        return mountpoint
    found = None
    here = mountpoint / own.lstrip("/")
    while here != mountpoint:
        # cgroups-v2: moving a process needs write access to cgroup.procs of the common ancestor
        if not (os.access(here, os.W_OK) and os.access(here / "cgroup.procs", os.W_OK)):
            break
        found, here = here, here.parent
    return found


def settings(version: int, limits: Limits) -> list[Setting]:
    """The control files and values that impose `limits`: pure, for the plan and for `explain`."""
    if version == 1:
        from host.linux.cgroup_v1 import settings as of_version
    else:
        from host.linux.cgroup_v2 import settings as of_version
    return of_version(limits)


class Cgroup:
    """One group of processes, in every hierarchy that it needs. Making the object touches nothing."""

    def __init__(self, name: str, where: Layout | None = None) -> None:
        if "/" in name or name.startswith("."):
            raise Failure("cannot name the cgroup", repr(name), "no slash and no leading dot")
        self.name = name
        self.layout = where or layout()
        self.left_out: list[str] = []

    def directory(self, controller: str) -> Path | None:
        """The group's directory of a controller (v2: the same for all), or None where that is not ours to use."""
        base = self.layout.bases.get(controller)
        if base is None and self.layout.version == 2:
            base = next(iter(self.layout.bases.values()), None)
        return base / PARENT / self.name if base else None

    def directories(self) -> list[Path]:
        """The directories of this group that exist."""
        found = dict.fromkeys(base / PARENT / self.name for base in self.layout.bases.values())
        return [path for path in found if path.is_dir()]

    def create(self, limits: Limits) -> None:
        """Make the group and impose the limits; what was asked and cannot be set is HostUnfit, defaults are left out.

        `left_out` names the defaults that this host could not set.
        """
        wanted = settings(self.layout.version, limits)
        self._refuse_missing(wanted)
        names = dict.fromkeys((*DEFAULT_CONTROLLERS, *(one.controller for one in wanted)))
        try:
            for path in dict.fromkeys(self.directory(name) for name in self.layout.controllers(names)):
                if path:
                    self._mkdir(path)
            self.apply(wanted)
        except BaseException:
            self.remove()
            raise

    def _refuse_missing(self, wanted: list[Setting]) -> None:
        for one in wanted:
            if one.controller in self.layout.bases:
                continue
            if one.asked:
                why = self.layout.why_not or f"the cgroup controller {one.controller} is not available here"
                raise HostUnfit("cannot set the limit", one.file, why, DELEGATION_HINT)
            self.left_out.append(f"{one.file} = {one.value}")

    def _mkdir(self, path: Path) -> None:
        try:
            os.mkdir(path)
        except FileNotFoundError:
            self._mkdir_parent(path.parent)
            os.mkdir(path)
        if self.layout.version == 1 and path.parent.parent == self.layout.bases.get("cpuset"):
            _inherit_cpuset(path)

    def _mkdir_parent(self, parent: Path) -> None:
        if self.layout.version == 2:
            _enable_controllers(parent.parent)
        try:
            os.mkdir(parent)
        except FileExistsError:
            pass
        if self.layout.version == 2:
            _enable_controllers(parent)
        elif parent.parent == self.layout.bases.get("cpuset"):
            _inherit_cpuset(parent)

    def apply(self, wanted: list[Setting]) -> None:
        """Write the settings into this group's control files."""
        for one in wanted:
            directory = self.directory(one.controller)
            if directory is None or one.controller not in self.layout.bases:
                continue
            try:
                _write(directory / one.file, one.value)
            except OSError as error:
                if one.asked:
                    raise _limit_failed(one, directory, error) from None
                self.left_out.append(f"{one.file} = {one.value}")

    def add(self, pid: int) -> None:
        """Move a process in. Memory comes last, so that the least of our own pages is charged to the container."""
        paths = self.directories()
        paths.sort(key=lambda path: "memory" in path.parts)
        for path in paths:
            _write(path / "cgroup.procs", str(pid))

    def pids(self) -> list[int]:
        """The processes in the group, from the first hierarchy that has it."""
        for path in self.directories():
            return [int(word) for word in _read(path / "cgroup.procs").split()]
        return []

    def freeze(self, timeout_s: float = 10.0) -> None:
        """Stop every process of the group; raises DeadlinePassed where the kernel has not within `timeout_s`."""
        path, value, reading, state = self._freezer(True)
        _write(path, value)
        deadline = time.monotonic() + timeout_s
        while state not in _read(reading):
            if time.monotonic() > deadline:
                self.thaw()
                raise DeadlinePassed("cannot pause", self.name, f"not frozen after {timeout_s:g} s")
            time.sleep(0.005)
            _write(path, value)  # v1: a fork may slip through FREEZING, writing again catches it

    def thaw(self) -> None:
        """Let the group run on; harmless where it was not frozen."""
        path, value, _, _ = self._freezer(False)
        _write(path, value)

    def frozen(self) -> bool:
        """Whether the group is frozen or on its way."""
        try:
            _, _, reading, state = self._freezer(True)
            return state in _read(reading)
        except (HostUnfit, OSError):
            return False

    def _freezer(self, on: bool) -> tuple[Path, str, Path, str]:
        directory = self.directory("freezer")
        if directory is None:
            raise HostUnfit("cannot pause", self.name, self.layout.why_not or "no freezer", "run as root")
        if self.layout.version == 1:
            state = directory / "freezer.state"
            return state, "FROZEN" if on else "THAWED", state, "FROZEN"
        return directory / "cgroup.freeze", "1" if on else "0", directory / "cgroup.events", "frozen 1"

    def kill(self, timeout_s: float = 10.0) -> None:
        """SIGKILL to every process, thawed first: a frozen v1 group does not die (freezer-subsystem.rst)."""
        deadline = time.monotonic() + timeout_s
        while self.directories():
            if self.frozen():
                self.thaw()
            pids = [pid for path in self.directories() for pid in _tree_pids(path)]
            if not pids:
                return
            for pid in set(pids):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            if time.monotonic() > deadline:
                raise DeadlinePassed("cannot kill", self.name, f"{len(set(pids))} processes live on")
            time.sleep(0.002)

    def stats(self) -> dict[str, int]:
        """What the kernel counted: bytes, ns and counts, only of what this host accounts."""
        if self.layout.version == 1:
            from host.linux.cgroup_v1 import stats
        else:
            from host.linux.cgroup_v2 import stats
        return stats(
            {name: path for name in self.layout.bases if (path := self.directory(name)) and path.is_dir()}
        )

    def remove(self, timeout_s: float = 5.0) -> None:
        """Remove the group and what was made below it; a process on its way out is waited for."""
        deadline = time.monotonic() + timeout_s
        for path in dict.fromkeys(base / PARENT / self.name for base in self.layout.bases.values()):
            while not _rmdir(path):
                if time.monotonic() > deadline:
                    raise DeadlinePassed("cannot remove the cgroup", str(path), "it still has processes")
                time.sleep(0.001)


def _rmdir(path: Path) -> bool:
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
        for child in _children(path):
            _rmdir(child)
        return False
    return True


def _children(path: Path) -> list[Path]:
    try:
        return [Path(one.path) for one in os.scandir(path) if one.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def _tree_pids(path: Path) -> list[int]:
    try:
        own = [int(word) for word in _read(path / "cgroup.procs").split()]
    except OSError:
        return []
    return own + [pid for child in _children(path) for pid in _tree_pids(child)]


def _inherit_cpuset(path: Path) -> None:
    # An empty v1 cpuset takes no process: ENOSPC (cgroup-v1/cpusets.rst).
    for file in ("cpuset.cpus", "cpuset.mems"):
        if not _read(path / file).strip():
            _write(path / file, _read(path.parent / file).strip())


def _enable_controllers(path: Path) -> None:
    for name in (path / "cgroup.controllers").read_text().split():
        try:
            _write(path / "cgroup.subtree_control", f"+{name}")
        except OSError:
            pass  # told later, by the limit that cannot be set


def _limit_failed(one: Setting, directory: Path, error: OSError) -> Failure:
    what = f"cannot set the limit {one.file} = {one.value}"
    if error.errno == errno.ENOENT:
        return HostUnfit(what, str(directory), "this kernel has no such control", "leave the limit out")
    if error.errno == errno.EBUSY and "memory" in one.file:
        return Failure(
            what, str(directory), "more is in use already", "stop the container first, or ask for more"
        )
    return from_os_error(what, error, str(directory))


def _write(path: Path, value: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def _read(path: Path) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        chunks = []
        while chunk := os.read(fd, 65536):
            chunks.append(chunk)
        return b"".join(chunks).decode()
    finally:
        os.close(fd)
