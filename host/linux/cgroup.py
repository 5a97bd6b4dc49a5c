"""Control groups, one API over v1 (a hierarchy for each controller) and v2 (one for all); no systemd assumed.

Only directories made here are ever limited, frozen, killed or removed. Kernel documents:
admin-guide/cgroup-v1/, admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from host import rawsignal as signal
from host.errors import DeadlinePassed, Failure, HostUnfit, from_os_error
from host.typing import NamedTuple

PARENT = "vmm"
DEFAULT_PIDS = 2048
DELEGATION_HINT = (
    "log in through systemd and run `systemd-run --user --scope -p Delegate=yes vmm ...`, run as root, "
    "or leave the limit out"
)


class Limits(NamedTuple):
    """What a container may use; None is unlimited, except `pids`: None is DEFAULT_PIDS there, -1 unlimited.

    `swap_bytes` is swap beyond memory (0 where memory is limited and nothing was said). `io_bps` and
    `io_iops` are (device "MAJOR:MINOR", "read" or "write", rate a second).
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


class Setting(NamedTuple):
    """One value in one control file; `asked` tells a user's wish from a default that may be left out."""

    controller: str
    file: str
    value: str
    asked: bool = True


class Layout(NamedTuple):
    """Where this host's controllers are: for each one the directory that we may create in."""

    version: int
    bases: dict[str, str]
    why_not: str = ""

    def controllers(self, wanted: Iterable[str]) -> list[str]:
        """Those of `wanted` that exist here, in that order."""
        return [name for name in wanted if name in self.bases]


# What every container gets: accounting for stats, the freezer for pause, and the two limits with a default.
DEFAULT_CONTROLLERS = ("pids", "devices", "freezer", "cpuacct", "memory")


def layout() -> Layout:
    """Find this process's hierarchies and where it may create; reads /proc/self/{mountinfo,cgroup} only."""
    v1, v2 = _mounts(read("/proc/self/mountinfo"))
    # Root creates at the top of each hierarchy and need not know where it is itself.
    own = {} if os.geteuid() == 0 else _own_paths(read("/proc/self/cgroup"))
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


def _mounts(text: str) -> tuple[dict[str, str], str | None]:
    v1: dict[str, str] = {}
    v2: str | None = None
    for line in text.splitlines():
        if " - cgroup" not in line:
            continue
        left, _, right = line.partition(" - ")
        mountpoint, fstype, options = left.split()[4], right.split()[0], right.split()[2]
        if fstype == "cgroup2":
            v2 = v2 or mountpoint
        elif fstype == "cgroup":
            for controller in options.split(","):
                v1.setdefault(controller, mountpoint)
    return {name: where for name, where in v1.items() if name in _V1_CONTROLLERS}, v2


_V1_CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "pids", "blkio", "freezer", "devices")


def _unified(mountpoint: str, own: str) -> Layout:
    base = _creatable(mountpoint, own)
    if base is None:
        return Layout(2, {}, "no cgroup is delegated to this user")
    names = read(f"{base}/cgroup.controllers").split()
    return Layout(2, dict.fromkeys(names, base))


def _creatable(mountpoint: str, own: str) -> str | None:
    """Root creates at the hierarchy's root, as docker does; a user in the highest group delegated to it."""
    if os.geteuid() == 0 and os.access(mountpoint, os.W_OK):
        return mountpoint
    found = None
    here = os.path.normpath(f"{mountpoint}/{own}")
    while here != mountpoint:
        # cgroup-v2.rst: moving a process needs write access to cgroup.procs of the common ancestor
        if not (os.access(here, os.W_OK) and os.access(f"{here}/cgroup.procs", os.W_OK)):
            break
        found, here = here, os.path.dirname(here)
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

    def directory(self, controller: str) -> str | None:
        """The group's directory of a controller (v2: one for all), or None where that is not ours to use."""
        base = self.layout.bases.get(controller)
        if base is None and self.layout.version == 2:
            base = next(iter(self.layout.bases.values()), None)
        return f"{base}/{PARENT}/{self.name}" if base else None

    def _places(self) -> list[str]:
        return list(dict.fromkeys(f"{base}/{PARENT}/{self.name}" for base in self.layout.bases.values()))

    def _memory_last(self) -> list[str]:
        places, memory = self._places(), self.directory("memory")
        if self.layout.version == 1 and memory in places:
            places.remove(memory)
            places.append(memory)
        return places

    def directories(self) -> list[str]:
        """The directories of this group that exist."""
        return [path for path in self._places() if os.path.isdir(path)]

    def create(self, limits: Limits, devices: Sequence[str] = ()) -> None:
        """Make the group and impose the limits; raises HostUnfit for one that was asked and cannot be set.

        `devices` are the only ones it may use ("c 1:3 rwm"); none given allows all. `left_out` names the
        defaults that this host could not set.
        """
        wanted = settings(self.layout.version, limits) + self._device_rules(devices)
        self.refuse_missing(wanted)
        try:
            for path in self._needed(wanted):
                self._mkdir(path)
            self.apply(wanted)
            if self.layout.version == 2 and devices:
                self._filter_devices(devices)
        except BaseException:
            self.remove()
            raise

    def _needed(self, wanted: list[Setting]) -> list[str]:
        """The directories of the default controllers and of those that are set, memory last."""
        names = {*DEFAULT_CONTROLLERS, *(one.controller for one in wanted)}
        paths = {self.directory(name) for name in self.layout.controllers(names)}
        return [path for path in self._memory_last() if path in paths]

    def _filter_devices(self, devices: Sequence[str]) -> None:
        """v2 has no files for this but eBPF, which takes root; a user has only what he may open."""
        if not self._places():
            self.left_out.append("device rules")
            return
        from host.linux import device_filter

        rules = [device_filter.parse(False, "a"), *(device_filter.parse(True, one) for one in devices)]
        places = self._places()
        if not places:
            return  # nothing is delegated to this user: there is no group to attach to
        try:
            device_filter.attach(places[0], rules)
        except Failure:
            if os.geteuid() == 0:
                raise
            self.left_out.append("device rules")

    def _device_rules(self, devices: Sequence[str]) -> list[Setting]:
        if self.layout.version == 2 or not devices:
            return []
        # devices.rst (v1): deny all first, an allow alone takes nothing away
        rules = [Setting("devices", "devices.deny", "a", asked=False)]
        return rules + [Setting("devices", "devices.allow", one, asked=False) for one in devices]

    def require(self, controllers: Iterable[str]) -> None:
        """Extend a group that has processes to further controllers."""
        paths = [self.directory(name) for name in self.layout.controllers(controllers)]
        missing = [path for path in dict.fromkeys(paths) if path and not os.path.isdir(path)]
        pids = self.pids() if missing else []
        for path in missing:
            self._mkdir(path)
            for pid in pids:
                write(f"{path}/cgroup.procs", str(pid))

    def refuse_missing(self, wanted: list[Setting]) -> None:
        """Raise HostUnfit for an asked setting whose controller is not ours; note the defaults left out."""
        for one in wanted:
            if one.controller in self.layout.bases:
                continue
            if one.asked:
                why = self.layout.why_not or f"the cgroup controller {one.controller} is not available here"
                raise HostUnfit("cannot set the limit", one.file, why, DELEGATION_HINT)
            self.left_out.append(f"{one.file} = {one.value}")

    def unset(self, limits: Limits) -> list[str]:
        """The settings of `limits` that this host has no controller for: `pids.max = 2048`."""
        wanted = settings(self.layout.version, limits)
        return [f"{one.file} = {one.value}" for one in wanted if one.controller not in self.layout.bases]

    def _mkdir(self, path: str) -> None:
        parent = os.path.dirname(path)
        try:
            os.mkdir(path)
        except FileNotFoundError:
            self._mkdir_parent(parent)
            os.mkdir(path)
        if self._is_cpuset(parent):
            from host.linux import cgroup_v1

            cgroup_v1.inherit_cpuset(path)

    def _mkdir_parent(self, parent: str) -> None:
        from host.linux import cgroup_v1, cgroup_v2

        if self.layout.version == 2:
            cgroup_v2.enable_controllers(os.path.dirname(parent))
        try:
            os.mkdir(parent)
        except FileExistsError:
            pass
        if self.layout.version == 2:
            cgroup_v2.enable_controllers(parent)
        elif self._is_cpuset(parent):
            cgroup_v1.inherit_cpuset(parent)

    def _is_cpuset(self, parent: str) -> bool:
        return self.layout.version == 1 and os.path.dirname(parent) == self.layout.bases.get("cpuset")

    def apply(self, wanted: list[Setting]) -> None:
        """Write the settings into this group's control files."""
        for one in wanted:
            directory = self.directory(one.controller)
            if directory is None or one.controller not in self.layout.bases:
                continue
            try:
                write(f"{directory}/{one.file}", one.value)
            except OSError as error:
                if one.asked:
                    raise _limit_failed(one, directory, error) from None
                self.left_out.append(f"{one.file} = {one.value}")

    def add(self, pid: int) -> None:
        """Move a process in. Memory comes last: what we allocate until then is not the container's."""
        for path in self._memory_last():
            try:
                write(f"{path}/cgroup.procs", str(pid))
            except FileNotFoundError:
                pass  # a controller that this container does not need

    def doors(self) -> list[int]:
        """Descriptors (v1) through which a process of one thread moves itself in by writing `0`; memory last.

        A pid written to cgroup.procs takes the kernel's threadgroup lock and with it an RCU grace period:
        about 10 ms here. A single thread that moves itself is spared it (cgroup_procs_write_start in
        kernel/cgroup/cgroup.c): 0.2 ms for six controllers. v2 has no such file for a domain: `add` does it.
        """
        opened: list[int] = []
        if self.layout.version != 1:
            return opened
        for path in self._memory_last():
            try:
                opened.append(os.open(f"{path}/tasks", os.O_WRONLY | os.O_CLOEXEC))
            except (FileNotFoundError, PermissionError):
                pass  # a controller that this container does not need, or that is not ours
        return opened

    def porches(self, limits: Limits) -> list[int]:
        """Descriptors (v1) of the directories in which `create(limits)` makes this group, memory last.

        There the process itself finds the `door`, so that the group can be made while it is on its way.
        """
        if self.layout.version != 1:
            return []
        return [self._open_parent(os.path.dirname(path)) for path in self._needed(settings(1, limits))]

    @property
    def door(self) -> bytes:
        """The file of this group, seen from a porch, through which a process moves itself in."""
        return os.fsencode(f"{self.name}/tasks")

    def _open_parent(self, parent: str) -> int:
        try:
            return os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            self._mkdir_parent(parent)
            return os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def pids(self) -> list[int]:
        """The processes in the group, from the first hierarchy that has it."""
        for path in self.directories():
            return pids_below(path)
        return []

    def freeze(self, timeout_s: float = 10.0) -> None:
        """Stop every process of the group; raises DeadlinePassed where the kernel has not in `timeout_s`."""
        path, value, reading, state = self._freezer(True)
        write(path, value)
        deadline = time.monotonic() + timeout_s
        while state not in read(reading):
            if time.monotonic() > deadline:
                self.thaw()
                raise DeadlinePassed("cannot pause", self.name, f"not frozen after {timeout_s:g} s")
            time.sleep(0.005)
            write(path, value)  # v1: a fork may slip through FREEZING, writing again catches it

    def thaw(self) -> None:
        """Let the group run on; harmless where it was not frozen."""
        path, value, _, _ = self._freezer(False)
        write(path, value)

    def frozen(self) -> bool:
        """Whether the group is frozen or on its way."""
        try:
            _, _, reading, state = self._freezer(True)
            return state in read(reading)
        except (HostUnfit, OSError):
            return False

    def _freezer(self, on: bool) -> tuple[str, str, str, str]:
        directory = self.directory("freezer")
        if directory is None:
            hint = DELEGATION_HINT.replace("leave the limit out", "stop it")
            raise HostUnfit("cannot pause", self.name, self.layout.why_not or "no freezer", hint)
        if self.layout.version == 1:
            state = f"{directory}/freezer.state"
            return state, "FROZEN" if on else "THAWED", state, "FROZEN"
        return f"{directory}/cgroup.freeze", "1" if on else "0", f"{directory}/cgroup.events", "frozen 1"

    def kill(self, timeout_s: float = 10.0) -> None:
        """SIGKILL to every process, thawed first: a frozen v1 group does not die (freezer-subsystem.rst)."""
        deadline = time.monotonic() + timeout_s
        while True:
            pids = {pid for path in self.directories() for pid in pids_below(path)}
            if not pids:
                return
            if self.frozen():
                self.thaw()
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            if time.monotonic() > deadline:
                raise DeadlinePassed("cannot kill", self.name, f"{len(pids)} processes live on")
            time.sleep(0.002)

    def stats(self) -> dict[str, int]:
        """What the kernel counted: bytes, ns and counts, only of what this host accounts."""
        if self.layout.version == 1:
            from host.linux.cgroup_v1 import stats
        else:
            from host.linux.cgroup_v2 import stats
        found = {name: self.directory(name) for name in self.layout.bases}
        return stats({name: Path(path) for name, path in found.items() if path and os.path.isdir(path)})

    def oom_kills(self) -> int:
        """How many processes of the group the kernel killed for want of memory; 0 where nobody counts."""
        file = "memory.oom_control" if self.layout.version == 1 else "memory.events"
        try:
            words = read(f"{self.directory('memory')}/{file}").split()
            return int(words[words.index("oom_kill") + 1])
        except (OSError, ValueError):
            return 0

    def remove(self, timeout_s: float = 10.0) -> None:
        """Kill what is left in the group and remove it with what was made below it."""
        deadline = time.monotonic() + timeout_s
        for path in self._places():
            while not removed(path):
                if time.monotonic() > deadline:
                    raise DeadlinePassed("cannot remove the cgroup", path, "it still has processes")
                self.kill(timeout_s)


def removed(path: str) -> bool:
    """Remove a group with those below; False where something is in it still, and it is to be tried again."""
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
        for child in _children(path):
            removed(child)
        return False
    return True


def _children(path: str) -> list[str]:
    try:
        return [one.path for one in os.scandir(path) if one.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def pids_below(path: str) -> list[int]:
    """The processes of the group at `path` and of those below it."""
    try:
        own = [int(word) for word in read(f"{path}/cgroup.procs").split()]
    except OSError:
        return []
    return own + [pid for child in _children(path) for pid in pids_below(child)]


def _limit_failed(one: Setting, directory: str, error: OSError) -> Failure:
    what = f"cannot set the limit {one.file} = {one.value}"
    if error.errno == errno.ENOENT:
        return HostUnfit(what, directory, "this kernel has no such control", "leave the limit out")
    if error.errno == errno.EBUSY and "memory" in one.file:
        return Failure(what, directory, "more is in use already", "stop the container first, or ask for more")
    if one.controller == "cpuset":
        why = os.strerror(error.errno or 0)
        return Failure(what, directory, why, f"this host has {_all_of(directory, one.file)}")
    return from_os_error(what, error, directory)


def _all_of(directory: str, file: str) -> str:
    """What the group above, the one that all of ours are in, has of a cpuset."""
    for above in (f"{directory}/../{file}", f"{directory}/../{file}.effective"):
        try:
            if told := read(above).strip():
                return told
        except OSError:
            continue
    return "others"


def write(path: str, value: str) -> None:
    """Write a control file, in one write(2): the kernel takes each as one value."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def read(path: str) -> str:
    """The text of a control file."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        chunks = []
        while chunk := os.read(fd, 65536):
            chunks.append(chunk)
        return b"".join(chunks).decode()
    finally:
        os.close(fd)
