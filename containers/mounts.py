"""The mounts of a container as a pure list of operations.

Everything below `pivot` is done with the new root as "/": a link in the image can lead anywhere inside, never
out. Host files that must come in are picked up as detached mounts (`tree`) before, while the host is in
sight.
"""

from __future__ import annotations

from collections.abc import Sequence

from containers.spec import ContainerSpec, Device, Mount
from host.errors import NotFound, Usage
from host.linux import constants as sc
from host.typing import NamedTuple

NODES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
LINKS = (
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
    ("/proc/kcore", "core"),
)
# The union of what docker and podman hide.
MASKED_FILES = ("interrupts", "kcore", "keys", "latency_stats", "sched_debug", "timer_list", "timer_stats")
MASKED_DIRS = ("/proc/acpi", "/proc/asound", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap")
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
HELPER = -2  # the slot of the helper, which no path inside leads to
ROOT = -3  # the slot of a root that the parent mounted
_HARDENED = sc.MS_NOSUID | sc.MS_NODEV | sc.MS_NOEXEC
_ATTRIBUTES = {"nosuid": 2, "nodev": 4, "noexec": 8, "ro": 1}
_SPREAD = {"private": sc.MS_PRIVATE, "slave": sc.MS_SLAVE, "shared": sc.MS_SHARED}
_FLAG_WORDS = ((1, "ro"), (2, "nosuid"), (4, "nodev"), (8, "noexec"), (1 << 24, "strictatime"))


class Op(NamedTuple):
    """The name of an effect in `containers.rootfs`, and its arguments."""

    call: str
    args: tuple[str | int | None, ...]


class Host(NamedTuple):
    """The folder of the container and whose rights do the work."""

    folder: str
    run: str
    own_user: bool
    rootless: bool
    helper: str = ""


# What everybody may use, as docker has it: any node may be made (CAP_MKNOD permitting), these may be opened.
_DEVICE_RULES = ("c *:* m", "b *:* m", "c 5:1 rwm", "c 5:2 rwm", "c 136:* rwm")


def device_rules(spec: ContainerSpec) -> tuple[str, ...]:
    """The device cgroup's allowed list; empty (all) for a privileged container."""
    if spec.privileged:
        return ()
    nodes = tuple(f"c {major}:{minor} rwm" for _, major, minor in NODES)
    return (*_DEVICE_RULES, *nodes, *(_rule(one) for one in spec.devices))


def _rule(device: Device) -> str:
    import os
    import stat

    try:
        seen = os.stat(device.source)
    except OSError as error:
        raise NotFound("cannot give the device", device.source, os.strerror(error.errno or 0)) from None
    kind = {stat.S_IFCHR: "c", stat.S_IFBLK: "b"}.get(stat.S_IFMT(seen.st_mode))
    if kind is None:
        raise Usage("cannot give the device", device.source, "it is not a device node")
    return f"{kind} {os.major(seen.st_rdev)}:{os.minor(seen.st_rdev)} {device.access}"


def root(spec: ContainerSpec, host: Host) -> list[Op]:
    """The operations that need the host in sight: private mounts, copies of what comes in, the new root."""
    # What comes in is picked up first: a mount that shall spread is one of the host's group only until then.
    ops = [*_trees(spec, host), Op("mount", (None, "/", None, sc.MS_REC | sc.MS_SLAVE, None))]
    if host.own_user and not host.rootless:
        # Shifted ids cannot search the home's directories: the parent hands the root over, and any place
        # will do.
        ops.append(Op("take_root", ("/proc",)))
        return [*ops, Op("pivot", ("/proc",))]
    # Over the folder itself: nobody but this namespace sees it, and it saves a directory on disk.
    options = overlay_options(spec, host)
    if len(options) < _PAGE_BYTES:
        ops.append(Op("mount", ("overlay", host.folder, "overlay", 0, options)))
    else:
        ops.append(Op("overlay_of_many", (host.folder, _upper_options(spec, host), *spec.lower_dirs)))
    ops.append(Op("pivot", (host.folder,)))
    return ops


def _trees(spec: ContainerSpec, host: Host) -> list[Op]:
    ops = [_tree(slot, mount) for slot, mount in enumerate(_binds(spec, host))]
    if host.helper:
        attributes = sc.MOUNT_ATTR_RDONLY | sc.MOUNT_ATTR_NOSUID
        ops.append(Op("tree", (HELPER, host.helper, attributes, sc.MS_PRIVATE)))
    return ops


def overlay_options(spec: ContainerSpec, host: Host) -> str:
    """The data of the overlay mount: image layers below, the container's own layer on top."""
    lower = ":".join(_escaped(path) for path in spec.lower_dirs)
    return f"lowerdir={lower},{_upper_options(spec, host)}"


def _upper_options(spec: ContainerSpec, host: Host) -> str:
    upper, work = (_escaped(f"{host.folder}/{name}") for name in ("upper", "work"))
    extra = ",volatile" if spec.ephemeral else ""
    if host.own_user and host.rootless:
        extra += ",userxattr"  # trusted.* belongs to the initial user namespace
    return f"upperdir={upper},workdir={work}{extra}"


_PAGE_BYTES = 4000  # mount(2) takes one page of options


def _escaped(path: str) -> str:
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


def _binds(spec: ContainerSpec, host: Host) -> list[Mount]:
    """What comes in from the host, in the order in which it is placed."""
    device = [Mount("device", one.target, one.source, options=("dev",)) for one in spec.devices]
    if host.own_user:  # mknod(2) needs CAP_MKNOD in the initial user namespace
        device += [Mount("device", f"/dev/{name}", f"/dev/{name}", options=("dev",)) for name, _, _ in NODES]
    if host.own_user and spec.network == "host":  # a new sysfs needs the owner of the network namespace
        device.append(Mount("bind", "/sys", "/sys", True, options=("rec",)))
    mounts = [one for one in spec.mounts if one.kind in ("bind", "volume")]
    taken = {one.target for one in mounts}
    etc = [Mount("bind", f"/etc/{name}", f"{host.run}/{name}") for name in spec.etc_files()]
    return device + [one for one in etc if one.target not in taken] + mounts


def _tree(slot: int, mount: Mount) -> Op:
    attributes = sum(_ATTRIBUTES.get(word, 0) for word in mount.options)
    if "suid" not in mount.options:
        attributes |= sc.MOUNT_ATTR_NOSUID
    if "dev" not in mount.options:
        attributes |= sc.MOUNT_ATTR_NODEV
    if mount.read_only:
        attributes |= sc.MOUNT_ATTR_RDONLY
    return Op("tree", (slot, mount.source, attributes, _SPREAD[mount.propagation]))


def inside(spec: ContainerSpec, host: Host) -> list[Op]:
    """The operations under the new root, up to where the cgroup must be known.

    Until the old root is gone, "/.." leads to it, as it lies on top of ours: what links of the image could
    turn waits for that. /proc and /sys do not: in a user namespace the kernel grants new ones only while
    old ones show.
    """
    ops = [Op("real_directory", (path,)) for path in ("/proc", "/sys", "/dev")]
    if not (host.own_user and spec.network == "host"):
        read_only = 0 if spec.privileged else sc.MS_RDONLY
        ops.append(Op("mount", ("sysfs", "/sys", "sysfs", _HARDENED | read_only, None)))
    ops.append(Op("mount", ("proc", "/proc", "proc", _HARDENED, None)))
    ops += _dev(spec, host)
    ops.append(Op("detach_old_root", ()))
    ops += _wanted(spec, host)
    if spec.uts_namespace == "private":
        ops.append(Op("sethostname", (spec.hostname or spec.name,)))
    if spec.network in ("none", "private"):
        ops.append(Op("loopback_up", ()))
    ops += [Op("write", (f"/proc/sys/{name.replace('.', '/')}", value)) for name, value in spec.sysctls]
    if spec.masked and not spec.privileged:
        ops += _hidden()
    return ops


def _dev(spec: ContainerSpec, host: Host) -> list[Op]:
    ops = [Op("mount", ("tmpfs", "/dev", "tmpfs", sc.MS_NOSUID | sc.MS_STRICTATIME, "mode=755,size=65536k"))]
    if host.own_user:
        ops += [Op("touch", (f"/dev/{name}",)) for name, _, _ in NODES]
    else:
        ops += [Op("mknod", (f"/dev/{name}", 0o666, major, minor)) for name, major, minor in NODES]
    ops += [Op("symlink", (target, f"/dev/{name}")) for target, name in LINKS]
    ops += [Op("mkdir", (f"/dev/{name}", 0o755)) for name in ("pts", "shm", "mqueue")]
    # gid 5 is `tty` in every distribution; without a map for it the group stays ours
    group = "" if host.own_user else ",gid=5"
    pts = f"newinstance,ptmxmode=0666,mode=0620{group}"
    ops.append(Op("mount", ("devpts", "/dev/pts", "devpts", sc.MS_NOSUID | sc.MS_NOEXEC, pts)))
    ops.append(Op("mount", ("shm", "/dev/shm", "tmpfs", _HARDENED, f"mode=1777,size={spec.shm_bytes}")))
    if spec.ipc_namespace == "private":
        ops.append(Op("mount", ("mqueue", "/dev/mqueue", "mqueue", _HARDENED, None)))
    return ops


def _wanted(spec: ContainerSpec, host: Host) -> list[Op]:
    """The user's mounts, outer before inner; the place is made where the image lacks it."""
    ops = []
    for slot, mount in enumerate(_binds(spec, host)):
        ops.append((mount.target, Op("place", (slot, mount.target, mount.source))))
    for mount in spec.mounts:
        if mount.kind == "tmpfs":
            ops.append((mount.target, Op("tmpfs", (mount.target, *_tmpfs_options(mount)))))
    ops.sort(key=lambda one: one[0].count("/"))
    return [op for _, op in ops]


def _tmpfs_options(mount: Mount) -> tuple[int, str]:
    flags = sc.MS_NOSUID | sc.MS_NODEV | sum(_ATTRIBUTES.get(word, 0) & (8 | 1) for word in mount.options)
    flags |= sc.MS_RDONLY if mount.read_only else 0
    data = [word for word in mount.options if "=" in word]
    if not any(word.startswith("mode=") for word in data):
        data.append("mode=1777")
    return flags, ",".join(data)


def _hidden() -> list[Op]:
    ops = [Op("mask_file", (f"/proc/{name}",)) for name in MASKED_FILES]
    ops += [Op("mask_directories", MASKED_DIRS)]
    ops += [Op("read_only", (path,)) for path in READ_ONLY]
    return ops


def late(spec: ContainerSpec, host: Host, hierarchies: Sequence[tuple[str, str]]) -> list[Op]:
    """What waits until the process is in its cgroup: the cgroup namespace, its mounts, and the old root's
    end.
    """
    ops: list[Op] = []
    if spec.cgroup_namespace == "private":
        ops.append(Op("unshare", (sc.CLONE_NEWCGROUP,)))
        ops += _cgroup_mounts(hierarchies, 0 if spec.privileged else sc.MS_RDONLY)
    if spec.read_only:
        ops.append(Op("read_only_root", ()))
    return ops


def _cgroup_mounts(hierarchies: Sequence[tuple[str, str]], read_only: int) -> list[Op]:
    where = "/sys/fs/cgroup"
    if not hierarchies:
        return []
    if hierarchies[0] == ("", ""):
        return [Op("mount", ("cgroup", where, "cgroup2", _HARDENED | read_only, None))]
    ops = [Op("mount", ("tmpfs", where, "tmpfs", _HARDENED, "mode=755,size=64k"))]
    for directory, controllers in hierarchies:
        ops.append(Op("mkdir", (f"{where}/{directory}", 0o755)))
        ops.append(
            Op("mount", ("cgroup", f"{where}/{directory}", "cgroup", _HARDENED | read_only, controllers))
        )
    ops.append(Op("mount", (None, where, None, sc.MS_REMOUNT | sc.MS_BIND | _HARDENED | read_only, None)))
    return ops


def _quoted(word: str) -> str:
    import shlex  # with re: too much for the start of a container

    return shlex.quote(word)


def describe(op: Op) -> str:
    """The shell command that does what `op` does; after `pivot` its paths are inside the new root."""
    words = [str(one) for one in op.args]
    match op.call:
        case "mount":
            return _describe_mount(*op.args)  # type: ignore[arg-type]
        case "tree":
            spread = next(word for word, flag in _SPREAD.items() if flag == op.args[3])
            bind = f"mount --rbind --make-r{spread} {_quoted(words[1])} $TMP/{words[0]}"
            return f"{bind} && mount -o remount,bind,{_flags(op)} $TMP/{words[0]}"
        case "place":
            return f"mount --move $TMP/{words[0]} {_quoted(words[1])}  # {words[2]}"
        case "pivot":
            return f"cd {_quoted(words[0])} && pivot_root . ."
        case "mknod":
            return f"mknod -m {op.args[1]:o} {words[0]} c {words[2]} {words[3]}"
        case "mkdir":
            return f"mkdir -m {op.args[1]:o} {words[0]}"
        case "tmpfs":
            return f"mkdir -p {_quoted(words[0])} && mount -t tmpfs -o {words[2]} tmpfs {_quoted(words[0])}"
        case "write":
            return f"echo {_quoted(words[1])} > {words[0]}"
        case "overlay_of_many":
            lower = ":".join(words[2:])
            return f"mount -t overlay -o lowerdir={lower},{words[1]} overlay {_quoted(words[0])}"
        case "mask_directories":
            return f"for d in {' '.join(words)}; do mount -t tmpfs -o ro,size=0 tmpfs $d; done"
    return _SHELL[op.call].format(*map(_quoted, words))


_SHELL = {
    "take_root": "mount --move $TMP/root {0}",
    "real_directory": "test ! -L {0} && mkdir -p {0}",
    "touch": "touch {0}",
    "symlink": "ln -s {0} {1}",
    "sethostname": "hostname {0}",
    "loopback_up": "ip link set lo up",
    "mask_file": "mount --bind /dev/null {0}",
    "read_only": "mount --bind {0} {0} && mount -o remount,bind,ro {0}",
    "unshare": "unshare --cgroup",
    "detach_old_root": "umount -l .",
    "read_only_root": "mount -o remount,bind,ro /",
}


def _flags(op: Op) -> str:
    return (
        ",".join(word for bit, word in _FLAG_WORDS if isinstance(op.args[2], int) and op.args[2] & bit)
        or "rw"
    )


def _describe_mount(source: str | None, target: str, fstype: str | None, flags: int, data: str | None) -> str:
    if flags & sc.MS_SLAVE:
        return f"mount --make-rslave {target}"
    words = [word for bit, word in _FLAG_WORDS if flags & bit] + ([data] if data else [])
    if flags & sc.MS_REMOUNT:
        words.insert(0, "remount,bind")
    option = f"-o {_quoted(','.join(words))} " if words else ""
    kind = f"-t {fstype} " if fstype else ""
    return f"mount {kind}{option}{source + ' ' if source else ''}{_quoted(target)}"
