"""The effects behind the operations of containers.oci.mounting; they run in the child, on bytes.

`_root` is the descriptor of the container's root: before pivot_root every path is taken inside it by
openat2(2).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from typing import Any

from containers.oci.mounting import MASK_SLOT, Op
from host.linux import syscalls as sc

Step = tuple[Callable[..., object], tuple[Any, ...]]
_INSIDE = sc.RESOLVE_IN_ROOT | sc.RESOLVE_NO_MAGICLINKS
_root = sc.AT_FDCWD
_trees: dict[int, int] = {}


def compiled(ops: Sequence[Op]) -> list[Step]:
    """The operations as functions with encoded arguments, ready for a child that may encode nothing."""
    return [
        (_EFFECTS[op.call], tuple(os.fsencode(one) if isinstance(one, str) else one for one in op.args))
        for op in ops
    ]


def enter_root(rootfs: bytes) -> None:
    """Cut the mounts off from the host's and make the root a mount of its own, as pivot_root(2) wants it."""
    global _root
    sc.mount(None, b"/", None, sc.MS_SLAVE | sc.MS_REC)  # the host's mounts reach us, ours never the host
    sc.mount(rootfs, rootfs, None, sc.MS_BIND | sc.MS_REC)
    _root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    # /dev/null of the host, to mask files with: the container's could be anything
    _trees[MASK_SLOT] = sc.open_tree(sc.AT_FDCWD, b"/dev/null", sc.OPEN_TREE_CLONE | sc.OPEN_TREE_CLOEXEC)


def enter_shared_root(rootfs: bytes) -> None:
    """Without a mount namespace: all that we mount lies on one mount over the root, which `delete` takes
    away.
    """
    global _root
    sc.mount(rootfs, rootfs, None, sc.MS_BIND | sc.MS_REC)
    sc.mount(None, rootfs, None, sc.MS_PRIVATE | sc.MS_REC)
    _root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    _trees[MASK_SLOT] = sc.open_tree(sc.AT_FDCWD, b"/dev/null", sc.OPEN_TREE_CLONE | sc.OPEN_TREE_CLOEXEC)


def change_root() -> None:
    """chroot(2), where pivot_root(2) would take the host's root away: a bundle without a mount namespace."""
    os.fchdir(_root)
    os.chroot(b".")
    os.chdir(b"/")


def pivot(propagation: int) -> None:
    """Make the root "/" and let go of the host's: pivot_root(2), NOTES."""
    global _root
    os.fchdir(_root)
    sc.pivot_root(b".", b".")
    sc.mount(None, b".", None, sc.MS_SLAVE | sc.MS_REC)  # the old root's end must not reach the host
    sc.umount2(b".", sc.MNT_DETACH)
    os.chdir(b"/")
    os.close(_root)
    _root = os.open(b"/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    if propagation:
        sc.mount(None, b"/", None, propagation)


def inside(path: bytes, flags: int = os.O_PATH) -> int:
    """Open a path with the container's root as the end of the world."""
    return sc.openat2(_root, path, flags, _INSIDE)


def made(path: bytes, is_directory: bool) -> int:
    """A descriptor of `path`, which is made with its parents where the root lacks it."""
    try:
        return inside(path)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
    parts = [part for part in path.split(b"/") if part]
    for count in range(1, len(parts) + 1):
        _make(b"/".join(parts[: count - 1]) or b"/", parts[count - 1], is_directory or count < len(parts))
    return inside(path)


def _make(parent: bytes, name: bytes, is_directory: bool) -> None:
    fd = inside(parent, os.O_PATH | os.O_DIRECTORY)
    try:
        if is_directory:
            os.mkdir(name, 0o755, dir_fd=fd)
        else:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            os.close(os.open(name, flags, 0o644, dir_fd=fd))
    except FileExistsError:
        pass  # a link that leads to nothing shows in the next step
    finally:
        os.close(fd)


def _mount(target: bytes, source: bytes, kind: bytes, flags: int, data: bytes | None, copy_up: int) -> None:
    where = made(target, True)
    before = _listed(where) if copy_up else []
    if kind == b"tmpfs" and b"mode=" not in (data or b""):
        mode = b"mode=%o" % stat.S_IMODE(os.fstat(where).st_mode)
        data = data + b"," + mode if data else mode
    os.fchdir(where)
    sc.mount(source, b".", kind, flags, data)  # "." cannot be changed under us, a path could
    if before:
        _copy(where, inside(target, os.O_RDONLY | os.O_DIRECTORY), before)
    os.close(where)


def _listed(where: int) -> list[str]:
    fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=where)
    try:
        return os.listdir(fd)
    finally:
        os.close(fd)


def _copy(below: int, above: int, names: list[str]) -> None:
    """Copy what the tmpfs covered into it: directories, files and links, with their modes."""
    for name in names:
        seen = os.stat(name, dir_fd=below, follow_symlinks=False)
        if stat.S_ISDIR(seen.st_mode):
            os.mkdir(name, stat.S_IMODE(seen.st_mode), dir_fd=above)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            lower, upper = os.open(name, flags, dir_fd=below), os.open(name, flags, dir_fd=above)
            _copy(lower, upper, os.listdir(lower))
        elif stat.S_ISLNK(seen.st_mode):
            os.symlink(os.readlink(name, dir_fd=below), name, dir_fd=above)
        elif stat.S_ISREG(seen.st_mode):
            _copy_file(below, above, name, stat.S_IMODE(seen.st_mode))
    os.close(above)


def _copy_file(below: int, above: int, name: str, mode: int) -> None:
    source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=below)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    target = os.open(name, flags, mode, dir_fd=above)
    while chunk := os.read(source, 1 << 20):
        os.write(target, chunk)
    os.close(source)
    os.close(target)


def _tree(
    slot: int, source: bytes, recursive: int, wanted: int, cleared: int, rec_wanted: int, rec_cleared: int
) -> None:
    deep = sc.AT_RECURSIVE if recursive else 0
    fd = sc.open_tree(sc.AT_FDCWD, source, sc.OPEN_TREE_CLONE | sc.OPEN_TREE_CLOEXEC | deep)
    if wanted or cleared:
        sc.mount_setattr(fd, b"", sc.AT_EMPTY_PATH, wanted, cleared)
    if rec_wanted or rec_cleared:
        sc.mount_setattr(fd, b"", sc.AT_EMPTY_PATH | sc.AT_RECURSIVE, rec_wanted, rec_cleared)
    _trees[slot] = fd


def _place(slot: int, target: bytes) -> None:
    tree = _trees.pop(slot)
    where = made(target, stat.S_ISDIR(os.fstat(tree).st_mode))
    sc.move_mount(tree, where)
    os.close(where)
    os.close(tree)


def _propagate(target: bytes, flags: int) -> None:
    where = inside(target)
    _at(where, None, None, flags)
    os.close(where)


def _at(where: int, source: bytes | None, kind: bytes | None, flags: int, data: bytes | None = None) -> None:
    """mount(2) on a descriptor: through "." for a directory, through /proc/self/fd for a file."""
    if stat.S_ISDIR(os.fstat(where).st_mode):
        os.fchdir(where)
        sc.mount(source, b".", kind, flags, data)
    else:
        sc.mount(source, b"/proc/self/fd/%d" % where, kind, flags, data)


def _remount(target: bytes, wanted: int) -> None:
    where = inside(target)
    sc.mount_setattr(where, b"", sc.AT_EMPTY_PATH, wanted)
    os.close(where)


def _node(path: bytes, mode: int, major: int, minor: int, uid: int, gid: int) -> None:
    parent, _, name = path.rpartition(b"/")
    fd = made(parent or b"/", True)
    try:
        os.mknod(name, mode, os.makedev(major, minor), dir_fd=fd)
        os.chown(name, uid, gid, dir_fd=fd, follow_symlinks=False)
        os.chmod(name, stat.S_IMODE(mode), dir_fd=fd)
    except FileExistsError:
        pass  # the image brings it
    finally:
        os.close(fd)


def _link(target: bytes, path: bytes) -> None:
    parent, _, name = path.rpartition(b"/")
    fd = made(parent or b"/", True)
    try:
        os.symlink(target, name, dir_fd=fd)
    except FileExistsError:
        pass
    finally:
        os.close(fd)


def _read_only(path: bytes) -> None:
    try:
        where = inside(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return
        raise
    deep = sc.AT_RECURSIVE if stat.S_ISDIR(os.fstat(where).st_mode) else 0
    flags = sc.OPEN_TREE_CLONE | sc.OPEN_TREE_CLOEXEC | sc.AT_EMPTY_PATH | deep
    tree = sc.open_tree(where, b"", flags)
    sc.mount_setattr(tree, b"", sc.AT_EMPTY_PATH | deep, sc.MOUNT_ATTR_RDONLY)
    sc.move_mount(tree, where)
    os.close(tree)
    os.close(where)


def _mask(path: bytes) -> None:
    """Cover a file with the host's /dev/null and a directory with an empty tmpfs; what is not there needs
    nothing.
    """
    try:
        where = inside(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return
        raise
    if stat.S_ISDIR(os.fstat(where).st_mode):
        os.fchdir(where)
        sc.mount(b"tmpfs", b".", b"tmpfs", sc.MS_RDONLY, b"size=0")
    else:
        flags = sc.OPEN_TREE_CLONE | sc.OPEN_TREE_CLOEXEC | sc.AT_EMPTY_PATH
        null = sc.open_tree(_trees[MASK_SLOT], b"", flags)
        sc.move_mount(null, where)
        os.close(null)
    os.close(where)


def read_only_root() -> None:
    """Make "/" read-only and leave its other options alone."""
    sc.mount_setattr(sc.AT_FDCWD, b"/", 0, sc.MOUNT_ATTR_RDONLY)


def write(path: bytes, data: bytes) -> None:
    """Write a control file."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, data)
    except OSError as error:
        raise OSError(error.errno, "", path) from None
    finally:
        os.close(fd)


_EFFECTS: dict[str, Callable[..., object]] = {
    "mount": _mount,
    "tree": _tree,
    "place": _place,
    "propagate": _propagate,
    "remount": _remount,
    "node": _node,
    "link": _link,
    "read_only": _read_only,
    "mask": _mask,
    "write": write,
}
