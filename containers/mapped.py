"""`--userns auto`: a container of root whose ids are nobody's on the host, on layers that stay as they are
on disk.

The layers are mounted a second time with their ids shifted (mount_setattr(2), MOUNT_ATTR_IDMAP; overlayfs
takes such layers since Linux 5.19), so that images and `commit` never see the shift. All of it is done
here, by the parent: the container's own root may shift nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

from containers import privileges
from containers.mounts import ROOT, Op
from containers.spec import ContainerSpec
from host import records
from host.errors import HostUnfit
from host.linux import idmap
from host.linux import syscalls as sc
from host.linux.idmap import IdMaps

COUNT = 65536
_FIRST, _SLOTS = 0x2000_0000, 0x2000  # above every range that useradd(8) hands out


def maps_of(folder: Path) -> IdMaps:
    """The container's own range of ids, chosen on its first start and kept in its folder."""
    return _maps(_base(folder))


def _maps(base: int) -> IdMaps:
    return IdMaps(((0, base, COUNT),), ((0, base, COUNT),))


def _base(folder: Path) -> int:
    known = _read(folder)
    if known is not None:
        return known
    with records.lock(folder.parent / ".userns.lock"):
        taken = {_read(one) for one in folder.parent.iterdir() if one.is_dir()}
        for slot in range(_SLOTS):
            base = _FIRST + slot * COUNT
            if base not in taken:
                (folder / "userns").write_text(str(base))
                return base
    raise HostUnfit("cannot give the container ids of its own", why=f"all {_SLOTS} ranges are taken")


def _read(folder: Path) -> int | None:
    try:
        return int((folder / "userns").read_text())
    except (OSError, ValueError):
        return None


def trees(spec: ContainerSpec, folder: Path, ops: tuple[Op, ...], maps: IdMaps) -> dict[int, int]:
    """The mounts that this process may make and the child may not, by slot: the root, and what comes in."""
    made: dict[int, int] = {}
    try:
        for op in ops:
            if op.call == "tree":
                slot, source, attributes, spread = op.args
                made[int(slot or 0)] = _tree(str(source), int(attributes or 0), int(spread or 0))
        namespace = idmap.namespace(maps)
        try:
            made[ROOT] = _overlay(spec, folder, namespace, maps)
        finally:
            os.close(namespace)
    except BaseException:
        for fd in made.values():
            os.close(fd)
        raise
    return made


def _tree(source: str, attributes: int, spread: int) -> int:
    flags = sc.OPEN_TREE_CLONE | sc.OPEN_TREE_CLOEXEC | sc.AT_RECURSIVE
    fd = sc.open_tree(sc.AT_FDCWD, os.fsencode(source), flags)
    try:
        sc.mount_setattr(fd, b"", sc.AT_EMPTY_PATH | sc.AT_RECURSIVE, attributes, spread=spread)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _overlay(spec: ContainerSpec, folder: Path, namespace: int, maps: IdMaps) -> int:
    # Upper and work must lie on one mount: the folder is shifted as a whole.
    fds: list[int] = []
    try:
        for path in (*spec.lower_dirs, str(folder)):
            fds.append(_shifted(path, namespace))
        lower = ":".join(f"/proc/self/fd/{fd}" for fd in fds[:-1])
        own = f"/proc/self/fd/{fds[-1]}"
        extra = ",volatile" if spec.ephemeral else ""
        options = f"lowerdir={lower},upperdir={own}/upper,workdir={own}/work{extra}"
        # overlayfs keeps the ids of who mounts it for its own work in the upper layer, where 0 is not mapped.
        sc.set_file_system_ids(maps.uids[0][1], maps.gids[0][1], privileges.permitted())
        try:
            return sc.overlay(options.encode())
        finally:
            sc.set_file_system_ids(0, 0, privileges.permitted())
    except OSError as error:
        why = f"{os.strerror(error.errno or 0)} (a file system without idmapped mounts?)"
        raise HostUnfit(
            "cannot shift the ids of the layers", why=why, hint="leave --userns auto out"
        ) from None
    finally:
        for fd in fds:
            os.close(fd)


def _shifted(path: str, namespace: int) -> int:
    fd = sc.open_tree(sc.AT_FDCWD, os.fsencode(path), sc.OPEN_TREE_CLONE | sc.OPEN_TREE_CLOEXEC)
    try:
        sc.mount_setattr(fd, b"", sc.AT_EMPTY_PATH, sc.MOUNT_ATTR_IDMAP, 0, namespace)
    except BaseException:
        os.close(fd)
        raise
    return fd
