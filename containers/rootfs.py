"""The effects behind the plan's operations. Everything here runs in the child, inside its new namespaces.

Bytes only: the child looks up no codec, no user and no module once the root may be somebody else's.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from typing import Any

from containers.mounts import HELPER, ROOT, Op
from host.linux import syscalls as sc

Step = tuple[Callable[..., object], tuple[Any, ...]]

_HARDENED = sc.MS_NOSUID | sc.MS_NODEV | sc.MS_NOEXEC
_trees: dict[int, int] = {}


def compiled(ops: Sequence[Op]) -> list[Step]:
    """The operations as functions with encoded arguments, ready for a child that may encode nothing."""
    return [
        (_EFFECTS[op.call], tuple(os.fsencode(one) if isinstance(one, str) else one for one in op.args))
        for op in ops
    ]


def inside(path: bytes, flags: int) -> int:
    """Open `path` where "/" is the new root already: only a magic link could lead out of it, and none is
    followed.
    """
    return sc.openat2(sc.AT_FDCWD, path, flags, sc.RESOLVE_NO_MAGICLINKS)


def _overlay_of_many(target: bytes, upper_options: bytes, *lower_dirs: bytes) -> None:
    """Name the layers by descriptor: their paths together are longer than the page that mount(2) takes."""
    fds = [os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for path in lower_dirs]
    lower = b":".join(b"/proc/self/fd/%d" % fd for fd in fds)
    sc.mount(b"overlay", target, b"overlay", 0, b"lowerdir=%s,%s" % (lower, upper_options))
    for fd in fds:
        os.close(fd)


def _pivot(new_root: bytes) -> None:
    os.chdir(new_root)
    sc.pivot_root(b".", b".")  # pivot_root(2), NOTES: the old root now lies on top of the new one


def _detach_old_root() -> None:
    sc.umount2(b".", sc.MNT_DETACH)  # "." is the new root, what lies on top of it is the old one
    os.chdir(b"/")


def _real_directory(path: bytes) -> None:
    # An image whose /proc is a link would have us hide paths that are not the kernel's (CVE-2019-19921).
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        pass
    flags = os.O_PATH | os.O_DIRECTORY
    os.close(sc.openat2(sc.AT_FDCWD, path, flags, sc.RESOLVE_NO_SYMLINKS))


def _mkdir(path: bytes, mode: int) -> None:
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        pass


def _mknod(path: bytes, mode: int, major: int, minor: int) -> None:
    os.mknod(path, mode | stat.S_IFCHR, os.makedev(major, minor))
    os.chmod(path, mode)


def _touch(path: bytes) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644))


def _tree(slot: int, source: bytes, attributes: int, spread: int) -> None:
    flags = sc.OPEN_TREE_CLONE | sc.OPEN_TREE_CLOEXEC | sc.AT_RECURSIVE
    fd = sc.open_tree(sc.AT_FDCWD, source, flags)
    sc.mount_setattr(fd, b"", sc.AT_EMPTY_PATH | sc.AT_RECURSIVE, attributes, spread=spread)
    _trees[slot] = fd


def keep_tree(slot: int, fd: int) -> None:
    """In the parent: a mount for the child to find in `slot`; the child inherits the descriptor."""
    _trees[slot] = fd


def close_trees() -> None:
    """In the parent, once the child has its own copies."""
    while _trees:
        os.close(_trees.popitem()[1])


def _take_root(target: bytes) -> None:
    sc.move_mount(_trees.pop(ROOT), sc.AT_FDCWD, target)


def helper() -> int:
    """The helper on its read-only mount: whoever reaches it through /proc/1/exe can never write there."""
    return _trees[HELPER]


def _place(slot: int, target: bytes, source: bytes) -> None:
    tree = _trees.pop(slot)
    is_directory = stat.S_ISDIR(os.fstat(tree).st_mode)
    where = _made(target, is_directory)
    _refuse_proc(where, target)
    sc.move_mount(tree, where)
    os.close(where)
    os.close(tree)


def _made(target: bytes, is_directory: bool) -> int:
    """A descriptor of `target`, which is made with its parents where the image lacks it.

    What is made, is made by its parent's descriptor: no path string of ours meets a link unguarded.
    """
    parts = [part for part in target.split(b"/") if part]
    here = inside(b"/", os.O_PATH)
    for count, name in enumerate(parts, 1):
        path = b"/" + b"/".join(parts[:count])
        try:
            there = inside(path, os.O_PATH)
        except FileNotFoundError:
            _make_in(here, name, count < len(parts) or is_directory)
            there = inside(path, os.O_PATH)
        os.close(here)
        here = there
    return here


def _make_in(directory: int, name: bytes, is_directory: bool) -> None:
    try:
        if is_directory:
            os.mkdir(name, 0o755, dir_fd=directory)
        else:
            os.mknod(name, stat.S_IFREG | 0o644, dir_fd=directory)
    except FileExistsError:
        pass  # a link that leads nowhere: the caller finds that out


def _refuse_proc(fd: int, target: bytes) -> None:
    """Nothing may cover the files of /proc, through a link of the image either (CVE-2023-27561)."""
    if os.fstat(fd).st_dev == os.stat(b"/proc").st_dev:
        raise OSError(errno.EXDEV, "", target)


def _tmpfs(target: bytes, flags: int, data: bytes) -> None:
    where = _made(target, True)
    _refuse_proc(where, target)
    # mount(2) knows no descriptors but this way; nobody else lives here yet who could swap a link meanwhile
    sc.mount(b"tmpfs", b"/proc/self/fd/%d" % where, b"tmpfs", flags, data)
    os.close(where)


def _write(path: bytes, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def _mask_file(path: bytes) -> None:
    try:
        sc.mount(b"/dev/null", path, None, sc.MS_BIND)
    except FileNotFoundError:
        pass  # not in this kernel: nothing to hide


def _mask_directories(*paths: bytes) -> None:
    first = b""
    for path in paths:
        try:
            if first:
                sc.mount(first, path, None, sc.MS_BIND)
            else:
                sc.mount(b"tmpfs", path, b"tmpfs", _HARDENED | sc.MS_RDONLY, b"size=0,mode=755")
                first = path  # one superblock hides them all
        except FileNotFoundError:
            pass


def _read_only(path: bytes) -> None:
    try:
        sc.mount(path, path, None, sc.MS_BIND | sc.MS_REC)
    except FileNotFoundError:
        return
    sc.mount(None, path, None, sc.MS_BIND | sc.MS_REMOUNT | sc.MS_RDONLY | _HARDENED)


def _read_only_root() -> None:
    sc.mount(None, b"/", None, sc.MS_BIND | sc.MS_REMOUNT | sc.MS_RDONLY)


def enter_cgroup(porch: int, door: bytes) -> None:
    """Move this process, of one thread, into the v1 cgroup whose `door` lies below the directory `porch`."""
    fd = os.open(door, os.O_WRONLY | os.O_CLOEXEC, dir_fd=porch)
    os.write(fd, b"0")
    os.close(fd)


def working_directory(path: bytes) -> None:
    """Enter `path`, made where it is missing; a link into /proc/self/fd would lead out (CVE-2024-21626)."""
    try:
        fd = _made(path, True)
    except OSError as error:
        raise OSError(error.errno, "", path) from None
    os.fchdir(fd)
    os.close(fd)
    if not os.getcwdb().startswith(b"/"):
        raise OSError(errno.ENOENT, "", path)


_EFFECTS: dict[str, Callable[..., object]] = {
    "mount": sc.mount,
    "overlay_of_many": _overlay_of_many,
    "pivot": _pivot,
    "detach_old_root": _detach_old_root,
    "real_directory": _real_directory,
    "mkdir": _mkdir,
    "mknod": _mknod,
    "touch": _touch,
    "symlink": os.symlink,
    "tree": _tree,
    "take_root": _take_root,
    "place": _place,
    "tmpfs": _tmpfs,
    "write": _write,
    "mask_file": _mask_file,
    "mask_directories": _mask_directories,
    "read_only": _read_only,
    "read_only_root": _read_only_root,
    "sethostname": sc.sethostname,
    "loopback_up": sc.loopback_up,
    "unshare": sc.unshare,
}
