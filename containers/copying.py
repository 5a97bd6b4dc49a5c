"""Files in and out of a container, running or not, without ever trusting a path of its own.

Every name is resolved by openat2(2) with the container's root as the end of the world, and every step below
it goes by directory descriptor without following a link (CVE-2018-15664: a process inside may swap them
meanwhile).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from containers import mounts
from host.errors import Failure, NotFound, Unsupported, from_os_error
from host.linux import syscalls as sc

if TYPE_CHECKING:
    from containers.container import Container

_INSIDE = sc.RESOLVE_IN_ROOT | sc.RESOLVE_NO_MAGICLINKS
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK_BYTES = 1 << 20


@contextlib.contextmanager
def root(container: Container) -> Iterator[int]:
    """A descriptor of the container's root: its own view while it runs, else its layers put together."""
    pid = container.pid()
    try:
        fd = (
            os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            if pid
            else _overlay(container)
        )
    except OSError as error:
        raise from_os_error("cannot open the root of", error, container.spec.name) from None
    try:
        yield fd
    finally:
        os.close(fd)


def _overlay(container: Container) -> int:
    """The layers as a mount that is attached nowhere: it goes when its last descriptor goes (fsmount(2))."""
    if os.geteuid() != 0:
        hint = "start it, copy, and stop it again"
        raise Unsupported(
            "cannot open the files of", container.spec.name, "it does not run, and you are not root", hint
        )
    container.make_folders()
    host = mounts.Host(str(container.folder), str(container.run_dir), False, False)
    return sc.overlay(os.fsencode(mounts.overlay_options(container.spec._replace(ephemeral=False), host)))


def copy_out(container: Container, source: str, target: Path) -> None:
    """Copy a file or directory of the container to the host; an existing directory as target takes it
    inside.
    """
    if target.is_dir():
        target = target / (source.rstrip("/").rsplit("/", 1)[-1] or container.spec.name)
    with root(container) as root_fd:
        parent, name = _opened(root_fd, source)
        try:
            host = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                _copy(parent, name, host, target.name.encode(), keep_owner=False)
            finally:
                os.close(host)
        except OSError as error:
            raise from_os_error("cannot copy to", error, str(target)) from None
        finally:
            os.close(parent)


def copy_in(container: Container, source: Path, target: str) -> None:
    """Copy a file or directory of the host into the container, owned by its root: `copy_out` in reverse."""
    if not source.exists() and not source.is_symlink():
        raise NotFound("cannot copy", str(source), "no such file")
    with root(container) as root_fd:
        into = _directory(root_fd, target)
        name = source.name if into is not None else target.rstrip("/").rsplit("/", 1)[-1]
        if into is None:
            into = _directory(root_fd, target.rstrip("/").rpartition("/")[0] or "/")
        if into is None:
            raise NotFound("cannot copy to", f"{container.spec.name}:{target}", "its directory is not there")
        try:
            host = os.open(source.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                _copy(host, source.name.encode(), into, name.encode(), keep_owner=False)
            finally:
                os.close(host)
        except OSError as error:
            raise from_os_error("cannot copy to", error, f"{container.spec.name}:{target}") from None
        finally:
            os.close(into)


def copy_volume(container: Container, source: str, target: str) -> None:
    """Copy a directory of the container that was never started over the empty `target`, owners kept."""
    with root(container) as root_fd:
        into = os.open(target, _DIRECTORY)
        try:
            found = _directory(root_fd, source)
            if found is not None:
                try:
                    _copy_contents(found, into, os.fstat(found), keep_owner=True)
                finally:
                    os.close(found)
        except OSError as error:
            raise from_os_error("cannot fill the volume", error, target) from None
        finally:
            os.close(into)


def _opened(root_fd: int, path: str) -> tuple[int, bytes]:
    """The directory of `path` and the name in it; the last part is not followed."""
    directory, _, name = path.rstrip("/").rpartition("/")
    try:
        if not name:
            return sc.openat2(root_fd, b".", os.O_RDONLY | os.O_DIRECTORY, _INSIDE), b"."
        fd = sc.openat2(root_fd, (directory or "/").encode(), os.O_RDONLY | os.O_DIRECTORY, _INSIDE)
        os.stat(name, dir_fd=fd, follow_symlinks=False)
    except OSError as error:
        raise NotFound("cannot copy", path, os.strerror(error.errno or 0)) from None
    return fd, name.encode()


def _directory(root_fd: int, path: str) -> int | None:
    try:
        return sc.openat2(root_fd, path.encode(), os.O_RDONLY | os.O_DIRECTORY, _INSIDE)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise Failure("cannot copy to", path, os.strerror(error.errno or 0)) from None


def _copy(from_dir: int, name: bytes, to_dir: int, as_name: bytes, keep_owner: bool) -> None:
    seen = os.stat(name, dir_fd=from_dir, follow_symlinks=False)
    if stat.S_ISDIR(seen.st_mode):
        return _copy_directory(from_dir, name, to_dir, as_name, keep_owner)
    if stat.S_ISREG(seen.st_mode):
        return _copy_file(from_dir, name, to_dir, as_name, keep_owner)
    if stat.S_ISLNK(seen.st_mode):
        _replace(to_dir, as_name)
        os.symlink(os.readlink(name, dir_fd=from_dir), as_name, dir_fd=to_dir)
    elif stat.S_ISFIFO(seen.st_mode):
        _replace(to_dir, as_name)
        os.mkfifo(as_name, stat.S_IMODE(seen.st_mode), dir_fd=to_dir)
    else:
        return  # sockets and devices mean nothing elsewhere, and a device would be a way to the host
    if keep_owner:
        os.chown(as_name, seen.st_uid, seen.st_gid, dir_fd=to_dir, follow_symlinks=False)


def _copy_directory(from_dir: int, name: bytes, to_dir: int, as_name: bytes, keep_owner: bool) -> None:
    source = os.open(name, _DIRECTORY, dir_fd=from_dir)
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(as_name, 0o700, dir_fd=to_dir)
        target = os.open(as_name, _DIRECTORY, dir_fd=to_dir)
        try:
            _copy_contents(source, target, os.fstat(source), keep_owner)
        finally:
            os.close(target)
    finally:
        os.close(source)


def _copy_contents(source: int, target: int, seen: os.stat_result, keep_owner: bool) -> None:
    for entry in os.listdir(source):
        _copy(source, os.fsencode(entry), target, os.fsencode(entry), keep_owner)
    if keep_owner:
        os.fchown(target, seen.st_uid, seen.st_gid)
    os.fchmod(target, stat.S_IMODE(seen.st_mode))
    os.utime(target, ns=(seen.st_atime_ns, seen.st_mtime_ns))


def _copy_file(from_dir: int, name: bytes, to_dir: int, as_name: bytes, keep_owner: bool) -> None:
    # O_NONBLOCK: what was a file a moment ago may be a FIFO now
    source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=from_dir)
    try:
        seen = os.fstat(source)
        if not stat.S_ISREG(seen.st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fsdecode(name))
        _replace(to_dir, as_name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        target = os.open(as_name, flags, 0o600, dir_fd=to_dir)
        try:
            while os.sendfile(target, source, None, _CHUNK_BYTES):
                pass
            if keep_owner:
                os.fchown(target, seen.st_uid, seen.st_gid)
            # setuid stays behind: a copied program has another owner, and a volume is nosuid
            os.fchmod(target, stat.S_IMODE(seen.st_mode) & 0o777)
            os.utime(target, ns=(seen.st_atime_ns, seen.st_mtime_ns))
        finally:
            os.close(target)
    finally:
        os.close(source)


def _replace(to_dir: int, name: bytes) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=to_dir)
