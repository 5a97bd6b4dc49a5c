"""The mounts of a bundle as a pure list of operations for containers.oci.effects.

All targets are taken inside the root through openat2 before pivot_root, so that hooks see the finished tree
and no link of the image leads out of it.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from containers.oci.bundle import Bundle, Config
from host.errors import BadData, Unsupported
from host.linux import syscalls as sc

# option -> (flag of mount(2), whether it clears the flag); fstab(5) and the runtime-spec's table of options
_FLAGS = {
    "defaults": (0, False),
    "ro": (1, False),
    "rw": (1, True),
    "nosuid": (2, False),
    "suid": (2, True),
    "nodev": (4, False),
    "dev": (4, True),
    "noexec": (8, False),
    "exec": (8, True),
    "sync": (16, False),
    "async": (16, True),
    "remount": (32, False),
    "mand": (64, False),
    "nomand": (64, True),
    "dirsync": (128, False),
    "nosymfollow": (256, False),
    "symfollow": (256, True),
    "noatime": (1024, False),
    "atime": (1024, True),
    "nodiratime": (2048, False),
    "diratime": (2048, True),
    "silent": (32768, False),
    "loud": (32768, True),
    "acl": (65536, False),
    "noacl": (65536, True),
    "relatime": (1 << 21, False),
    "norelatime": (1 << 21, True),
    "iversion": (1 << 23, False),
    "noiversion": (1 << 23, True),
    "strictatime": (1 << 24, False),
    "nostrictatime": (1 << 24, True),
    "lazytime": (1 << 25, False),
    "nolazytime": (1 << 25, True),
}
PROPAGATION = {
    "private": sc.MS_PRIVATE,
    "shared": sc.MS_SHARED,
    "slave": sc.MS_SLAVE,
    "unbindable": 1 << 17,
}
PROPAGATION |= {f"r{name}": flag | sc.MS_REC for name, flag in PROPAGATION.items()}
# mount(2)'s flag -> mount_setattr(2)'s attribute; the access-time modes are a field of their own there
_ATTRIBUTE = {1: 1, 2: 2, 4: 4, 8: 8, 256: 0x200000, 2048: 0x80}
_ATIME = {1024: 0x10, 1 << 24: 0x20, 1 << 21: 0}
_ATIME_MASK = 0x70
_FILESYSTEM_ONLY = 16 | 64 | 128 | 65536 | 1 << 23 | 1 << 25
OPTIONS = (*sorted(_FLAGS), "bind", "rbind", "tmpcopyup", *sorted(PROPAGATION))
RECURSIVE = tuple(f"r{name}" for name, (flag, _) in _FLAGS.items() if flag in _ATTRIBUTE or flag in _ATIME)
MASK_SLOT = -1


class Op(NamedTuple):
    """The name of an effect in containers.oci.effects, and its arguments."""

    call: str
    args: tuple[str | int | None, ...]


class Attributes(NamedTuple):
    """What mount_setattr(2) sets and clears."""

    set: int = 0
    clear: int = 0


class Mounting(NamedTuple):
    """The options of one mount, taken apart."""

    flags: int
    cleared: int
    data: tuple[str, ...]
    propagation: tuple[int, ...]
    bind: int
    recursive: Attributes
    copy_up: bool


def parsed(options: list[str]) -> Mounting:
    """Take apart the options of a mount; what is not known belongs to the file system."""
    flags = cleared = bind = 0
    data, propagation = [], []
    rec_set = rec_clear = 0
    for word in options:
        if word in _FLAGS:
            flag, clears = _FLAGS[word]
            flags, cleared = (flags & ~flag, cleared | flag) if clears else (flags | flag, cleared & ~flag)
        elif word in ("bind", "rbind"):
            bind = sc.MS_BIND | (sc.MS_REC if word == "rbind" else 0)
        elif word in PROPAGATION:
            propagation.append(PROPAGATION[word])
        elif word in RECURSIVE:
            flag, clears = _FLAGS[word[1:]]
            one = attributes(0 if clears else flag, flag if clears else 0)
            rec_set, rec_clear = rec_set & ~one.clear | one.set, rec_clear & ~one.set | one.clear
        elif word in ("idmap", "ridmap"):
            raise Unsupported("cannot mount", word, "idmapped mounts of a bundle are not known here")
        elif word != "tmpcopyup":
            data.append(word)
    recursive = Attributes(rec_set, rec_clear)
    return Mounting(flags, cleared, (*data,), (*propagation,), bind, recursive, "tmpcopyup" in options)


def attributes(flags: int, cleared: int) -> Attributes:
    """Flags of mount(2) as attributes of mount_setattr(2)."""
    wanted = sum(value for flag, value in _ATTRIBUTE.items() if flags & flag)
    gone = sum(value for flag, value in _ATTRIBUTE.items() if cleared & flag)
    modes = [value for flag, value in _ATIME.items() if flags & flag]
    if modes:
        wanted, gone = wanted | modes[0], gone | _ATIME_MASK
    elif any(cleared & flag for flag in _ATIME):
        gone |= _ATIME_MASK  # back to relatime, the default
    return Attributes(wanted, gone)


def operations(bundle: Bundle, cgroups: list[tuple[str, str]], own_user: bool) -> list[Op]:
    """All mounts in order; `cgroups` are (directory's name, host path) of the container's own v1
    hierarchies.
    """
    ops = []
    for slot, mount in enumerate(bundle.part("mounts") or ()):
        target = str(mount.get("destination", ""))
        if not target:
            raise BadData("cannot mount", str(mount.get("source", "")), "destination is missing")
        ops += _one(bundle, slot, mount, "/" + target.lstrip("/"), cgroups, own_user)
    return ops


def _one(
    bundle: Bundle, slot: int, mount: Config, target: str, cgroups: list[tuple[str, str]], own_user: bool
) -> list[Op]:
    wanted = parsed(list(mount.get("options") or ()))
    kind, source = str(mount.get("type") or ""), str(mount.get("source") or "")
    if mount.get("uidMappings") or mount.get("gidMappings"):
        raise Unsupported("cannot mount", target, "idmapped mounts of a bundle are not known here")
    if wanted.bind or kind == "bind":
        return _bind(bundle, slot, target, source, wanted)
    if kind in ("cgroup", "cgroup2"):
        return _cgroup(bundle, target, wanted, cgroups)
    if kind == "sysfs" and own_user and not _owns_network(bundle):
        tree = Mounting(1 | 2 | 4 | 8, 0, (), (), sc.MS_BIND | sc.MS_REC, Attributes(), False)
        return _bind(bundle, slot, target, "/sys", tree)  # a new sysfs needs the network namespace's owner
    data = ",".join(wanted.data) or None
    ops = [Op("mount", (target, source or kind, kind, wanted.flags, data, int(wanted.copy_up)))]
    return ops + [Op("propagate", (target, flag)) for flag in wanted.propagation]


def _owns_network(bundle: Bundle) -> bool:
    return bundle.has_own("network")


def _bind(bundle: Bundle, slot: int, target: str, source: str, wanted: Mounting) -> list[Op]:
    path = os.path.join(bundle.path, source)
    own = attributes(wanted.flags, wanted.cleared)
    recursive = int(bool(wanted.bind & sc.MS_REC))
    ops = [Op("tree", (slot, path, recursive, *own, *wanted.recursive)), Op("place", (slot, target))]
    flags = wanted.propagation or (sc.MS_PRIVATE | sc.MS_REC,)
    return ops + [Op("propagate", (target, flag)) for flag in flags]


def _cgroup(bundle: Bundle, target: str, wanted: Mounting, cgroups: list[tuple[str, str]]) -> list[Op]:
    """v2: the one hierarchy. v1: a tmpfs with a bind mount of the container's own group of each hierarchy."""
    if not cgroups:
        return [Op("mount", (target, "cgroup", "cgroup2", wanted.flags, None, 0))]
    safe = sc.MS_NOSUID | sc.MS_NODEV | sc.MS_NOEXEC
    ops = [Op("mount", (target, "tmpfs", "tmpfs", safe, "mode=755", 0))]
    own = attributes(wanted.flags | safe, 0)
    for slot, (name, path) in enumerate(cgroups, 1000):
        ops += [Op("tree", (slot, path, 0, *own, 0, 0)), Op("place", (slot, f"{target}/{name}"))]
        ops += [
            Op("link", (name, f"{target}/{one}")) for one in name.split(",") if "," in name and one != name
        ]
    if wanted.flags & sc.MS_RDONLY:
        ops.append(Op("remount", (target, 1)))
    return ops


DEFAULT_NODES = (
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
)
_TYPES = {"c": 0o020000, "u": 0o020000, "b": 0o060000, "p": 0o010000}


def devices(bundle: Bundle, own_user: bool) -> list[Op]:
    """Device nodes and links of /dev; bind mounts in a user namespace, where mknod(2) is refused."""
    if any(_covers_dev(mount) for mount in bundle.part("mounts") or ()):
        return []
    nodes = {f"/dev/{name}": ("c", major, minor, 0o666, 0, 0) for name, major, minor in DEFAULT_NODES}
    for one in bundle.part("linux", "devices") or ():
        if one["type"] not in _TYPES:
            raise BadData("cannot make the device", str(one.get("path")), f"no type {one['type']!r}")
        ids = (one.get("major", 0), one.get("minor", 0))
        mode = one.get("fileMode")
        nodes[one["path"]] = (
            one["type"], *ids, 0o666 if mode is None else mode & 0o7777, one.get("uid") or 0, one.get("gid")
            or 0
        )  # fmt: skip
    ops = []
    for slot, (path, (kind, major, minor, mode, uid, gid)) in enumerate(nodes.items(), 2000):
        if own_user:
            ops += [Op("tree", (slot, path, 0, 0, 0, 0, 0)), Op("place", (slot, path))]
        else:
            ops.append(Op("node", (path, mode | _TYPES[kind], major, minor, uid, gid)))
    return ops + [Op("link", link) for link in LINKS]


LINKS = (
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("pts/ptmx", "/dev/ptmx"),
)


def _covers_dev(mount: Config) -> bool:
    """A bind mount of a whole /dev brings its own nodes."""
    binds = {"bind", "rbind"} & set(mount.get("options") or ()) or mount.get("type") == "bind"
    return bool(binds) and str(mount.get("destination", "")).rstrip("/") == "/dev"


def hidden(bundle: Bundle) -> list[Op]:
    """Masked and read-only paths, and the root's own: after pivot_root."""
    linux = bundle.part("linux")
    ops = [Op("read_only", (path,)) for path in linux.get("readonlyPaths") or ()]
    ops += [Op("mask", (path,)) for path in linux.get("maskedPaths") or ()]
    return ops
