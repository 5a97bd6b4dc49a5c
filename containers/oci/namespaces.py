"""The namespaces of a bundle: joined or made with the child, and the id maps of a user namespace."""

from __future__ import annotations

import os
import signal
from typing import Any

from containers.oci import child
from containers.oci.bundle import Bundle
from host.errors import BadData, Failure, NotFound, Unsupported
from host.linux import syscalls as sc

# namespace type -> (its file in /proc/PID/ns, the flag of clone(2)); user first, since it gives the
# rights to join
KINDS = {
    "user": ("user", sc.CLONE_NEWUSER),
    "cgroup": ("cgroup", sc.CLONE_NEWCGROUP),
    "ipc": ("ipc", sc.CLONE_NEWIPC),
    "uts": ("uts", sc.CLONE_NEWUTS),
    "network": ("net", sc.CLONE_NEWNET),
    "pid": ("pid", sc.CLONE_NEWPID),
    "mount": ("mnt", sc.CLONE_NEWNS),
    "time": ("time", sc.CLONE_NEWTIME),
}


def joins(spaces: dict[str, Any], opened: list[int]) -> tuple[tuple[int, int], ...]:
    """Descriptors of the namespaces to join, of the type that the bundle says they are; pid is joined by
    the parent.
    """
    found = []
    for kind, (file, flag) in KINDS.items():
        path = spaces.get(kind)
        if not path:
            continue
        fd = _open_namespace(kind, file, path)
        opened.append(fd)
        found.append((fd, flag))
    return tuple(found)


def _open_namespace(kind: str, file: str, path: str) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise NotFound(f"cannot join the {kind} namespace", path, os.strerror(error.errno or 0)) from None
    told = os.readlink(f"/proc/self/fd/{fd}")
    if not told.startswith(f"{file}:["):
        os.close(fd)
        raise BadData(f"cannot join the {kind} namespace", path, f"it is {told}")
    return fd


def clone(bundle: Bundle, plan: child.Child) -> int:
    """The child's pid. A pid namespace that is joined, and a time namespace, are entered by the next child
    only.
    """
    flags, restore = 0, -1
    for one in bundle.part("linux", "namespaces"):
        if one["type"] not in KINDS:
            raise Unsupported("cannot make the namespace", one["type"], "not known here")
        if not one.get("path") and one["type"] not in ("cgroup", "time"):
            flags |= KINDS[one["type"]][1]
        if one["type"] == "time" and not one.get("path"):
            sc.unshare(sc.CLONE_NEWTIME)
            _time_offsets(bundle)
    joined = [fd for fd, flag in plan.joins if flag == sc.CLONE_NEWPID]
    try:
        if joined:
            restore = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
            sc.setns(joined[0], sc.CLONE_NEWPID)
        others = tuple(pair for pair in plan.joins if pair[1] != sc.CLONE_NEWPID)
        pid = sc.clone3(flags, signal.SIGCHLD)
        if pid == 0:
            child.main(plan._replace(joins=others))
    except OSError as error:
        raise Failure("cannot make the namespaces", "", os.strerror(error.errno or 0)) from None
    finally:
        if restore >= 0:
            sc.setns(restore, sc.CLONE_NEWPID)
            os.close(restore)
    return pid


def _time_offsets(bundle: Bundle) -> None:
    """time_namespaces(7): written before the first process is in."""
    for clock, one in (bundle.part("linux", "timeOffsets") or {}).items():
        with open("/proc/self/timens_offsets", "w", encoding="ascii") as file:
            file.write(f"{clock} {one.get('secs', 0)} {one.get('nanosecs', 0)}\n")


def map_users(bundle: Bundle, pid: int) -> None:
    """Write the id maps of a new user namespace; newuidmap(1) does it where we are not root."""
    spaces = {one["type"]: one.get("path") for one in bundle.part("linux", "namespaces")}
    if "user" not in spaces or spaces["user"]:
        return
    for file, key in (("uid_map", "uidMappings"), ("gid_map", "gidMappings")):
        lines = [
            f"{one['containerID']} {one['hostID']} {one['size']}" for one in bundle.part("linux", key) or ()
        ]
        if not lines:
            raise BadData("cannot make the user namespace", key, "it is empty")
        if os.geteuid() == 0:
            write(f"/proc/{pid}/{file}", "\n".join(lines))
        else:
            from host import commands

            program = "new" + file.replace("_", "")
            commands.run([program, str(pid), *" ".join(lines).split()], "cannot map users", timeout_s=10)


def write(path: str, value: str) -> None:
    """Write a file of /proc; Failure in the kernel's words."""
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(value)
    except OSError as error:
        raise Failure("cannot write", path, f"{os.strerror(error.errno or 0)}: {value!r}") from None
