"""Apply a layer's tar to a directory, in overlayfs' form, never touching anything outside of it.

The archive is hostile: names with `..`, links that point out, entries below a link that an earlier entry
planted. So no path of the archive is ever given to the kernel: its components are walked one by one, links
are resolved by us inside the merged tree, and each file is made by its last component relative to a
descriptor of its directory. Rules of whiteouts: OCI image-spec v1.1, layer.md.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Self

from host.errors import BadData, Failure, from_os_error
from images.merged import Found, Merged, Parts, is_whiteout, lstat, resolve
from images.metadata import Outcome, Rights, copy_file, copy_metadata, rights, settle_at, settle_fd

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
# More levels than any image has, fewer than PATH_MAX and Python's stack allow.
_DEEPEST = 256
_COPY_BYTES = 1 << 18
_EXTENDED = (
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
)  # fmt: skip
_LARGEST_HEADER_BYTES = 1 << 20
_ZEROS = bytes(_COPY_BYTES)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def apply(stream: BinaryIO, target: Path, lowers: Sequence[Path] = (), what: str = "the layer") -> Outcome:
    """Apply the tar in `stream` to the empty directory `target`; `lowers` are the layers below it, top first.

    BadData for an archive that is broken or breaks the rules; other failures carry the system's words.
    """
    with _Layer(target, lowers, rights()) as layer:
        try:
            with tarfile.open(fileobj=stream, mode="r|", errorlevel=2, tarinfo=_Member) as archive:
                for member in archive:
                    layer.add(archive, member)
            layer.finish()
            return layer.outcome
        # ValueError and OverflowError: owners, times and attributes that are no such thing.
        except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
            raise BadData("cannot unpack", what, f"not a sound tar archive: {error}") from None
        except OSError as error:
            if error.errno in (errno.EFBIG, errno.EINVAL, errno.ENAMETOOLONG):
                raise BadData("cannot unpack", what, f"{layer.at}: {os.strerror(error.errno)}") from None
            raise from_os_error("cannot unpack", error, f"{what}, entry {layer.at}") from error
        except Failure as error:
            error.on = error.on or f"{what}, entry {layer.at}"
            raise


class _Member(tarfile.TarInfo):
    """An entry whose extended header is small: tarfile reads all of it into memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """The entry of a block; BadData for an extended header that is larger than a megabyte."""
        member = super().frombuf(buf, encoding, errors)
        if member.type in _EXTENDED and not 0 <= member.size <= _LARGEST_HEADER_BYTES:
            raise BadData("cannot unpack", why=f"an extended header of {member.size} bytes")
        return member


class _Layer:
    """One layer being applied."""

    def __init__(self, target: Path, lowers: Sequence[Path], may: Rights) -> None:
        self.target, self.may, self.outcome, self.at = target, may, Outcome(), ""
        self._lower = Merged(lowers)
        self._whiteouts: list[Parts] = []
        self._opaque: set[Parts] = set()
        self._directories: dict[Parts, tarfile.TarInfo] = {}
        self._resolved: dict[str, Parts] = {}
        self._held: dict[Parts, int] = {(): os.open(target, _DIRECTORY)}

    def __enter__(self) -> _Layer:
        return self

    def __exit__(self, *_: object) -> None:
        self._forget()
        os.close(self._held.pop(()))

    def _forget(self) -> None:
        self._resolved.clear()
        for at in [at for at in self._held if at]:
            os.close(self._held.pop(at))

    # where an entry goes

    def _lookup(self, at: Parts) -> Found | None:
        path = self.target.joinpath(*at)
        status = lstat(path)
        if status is not None:
            return Found(path, status)
        return None if self._hidden(at) else self._lower.lookup(at)

    def _hidden(self, at: Parts) -> bool:
        # What an entry of this layer has replaced by something else, or declared opaque, hides the lower
        # layers.
        return any(at[:n] in self._opaque for n in range(len(at)))

    def _parent(self, name: str) -> tuple[Parts, str]:
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise BadData("cannot unpack", why=f"the name {name!r} leads out of the tree")
        if not parts:
            return (), ""
        if len(parts) > _DEEPEST:
            raise BadData("cannot unpack", why=f"a name of {len(parts)} parts: {_DEEPEST} are the most")
        above = "/".join(parts[:-1])
        if above not in self._resolved:
            self._resolved[above] = resolve(above, self._lookup)
        return self._resolved[above], parts[-1]

    def _open(self, at: Parts) -> int:
        """A descriptor of a directory of this layer, made (as its lower one is) where it is missing."""
        held = self._held.get(at)
        if held is not None:
            return held
        above = self._open(at[:-1])
        try:
            fd = os.open(at[-1], _DIRECTORY, dir_fd=above)
        except FileNotFoundError:
            self._copy_up(above, at)
            fd = os.open(at[-1], _DIRECTORY, dir_fd=above)
        except NotADirectoryError:
            raise BadData(
                "cannot unpack", why=f"/{'/'.join(at)} is no directory, but has entries below it"
            ) from None
        if len(self._held) > 64:
            self._drop_held(at)
        self._held[at] = fd
        return fd

    def _drop_held(self, keep: Parts) -> None:
        for at in [at for at in self._held if at and at != keep[: len(at)]]:
            os.close(self._held.pop(at))

    def _copy_up(self, above: int, at: Parts) -> None:
        found = None if self._hidden(at) else self._lower.lookup(at)
        if found is not None and not stat.S_ISDIR(found.status.st_mode):
            raise BadData("cannot unpack", why=f"/{'/'.join(at)} is no directory, but has entries below it")
        os.mkdir(at[-1], 0o755, dir_fd=above)
        if found is None:
            os.chmod(at[-1], 0o755, dir_fd=above)
            return
        copy_metadata(found, at[-1], above, self.may)

    # the entries

    def add(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Apply one entry of the archive."""
        self.at = repr(member.name)
        self.outcome.entries += 1
        if "\0" in member.name or "\0" in member.linkname:
            raise BadData("cannot unpack", why="a name holds a NUL byte")
        at, name = self._parent(member.name)
        if not name:
            if not member.isdir():
                raise BadData("cannot unpack", why="the root of the tree is no directory in the archive")
            self._directories[()] = member
            return
        if name.startswith(WHITEOUT):
            return self._whiteout(at, name)
        directory = self._open(at)
        if not self._keep_directory(directory, (*at, name), member):
            self._make(archive, member, directory, name)
        if member.isdir():
            self._directories[(*at, name)] = member

    def _whiteout(self, at: Parts, name: str) -> None:
        if name == OPAQUE:
            self._open(at)
            self._opaque.add(at)
        elif name in (WHITEOUT, WHITEOUT + ".", WHITEOUT + ".."):
            raise BadData("cannot unpack", why="a whiteout names nothing")
        elif not name.startswith(WHITEOUT + WHITEOUT):  # what begins so is aufs' bookkeeping
            self._open(at)
            self._whiteouts.append((*at, name.removeprefix(WHITEOUT)))

    def _keep_directory(self, directory: int, at: Parts, member: tarfile.TarInfo) -> bool:
        """Whether the entry is a directory that is there already; anything else of that name is removed."""
        try:
            status = os.stat(at[-1], dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if not stat.S_ISDIR(status.st_mode):
            os.unlink(at[-1], dir_fd=directory)
            self._resolved.clear()
            return False
        if member.isdir():
            return True
        self._forget()
        self._directories = {k: v for k, v in self._directories.items() if k[: len(at)] != at}
        self._opaque = {k for k in self._opaque if k[: len(at)] != at}
        # rmtree works on descriptors and never follows a link (shutil.rmtree.avoids_symlink_attacks).
        shutil.rmtree(at[-1], dir_fd=self._open(at[:-1]))
        return False

    def _make(self, archive: tarfile.TarFile, member: tarfile.TarInfo, directory: int, name: str) -> None:
        # _keep_directory may have closed `directory`: a removed subtree gives all held descriptors back.
        at = self._resolved.get("/".join(p for p in member.name.split("/")[:-1] if p not in ("", ".")))
        directory = self._open(at if at is not None else self._parent(member.name)[0])
        if member.isreg() or member.issparse():
            self._file(archive, member, directory, name)
        elif member.isdir():
            os.mkdir(name, 0o700, dir_fd=directory)
        elif member.issym():
            os.symlink(member.linkname, name, dir_fd=directory)
            self._settle(member, directory, name)
        elif member.islnk():
            self._hard_link(member, directory, name)
        elif member.ischr() or member.isblk() or member.isfifo():
            self._device(member, directory, name)
        else:
            raise BadData("cannot unpack", why=f"an entry of unknown type {member.type!r}")

    def _file(self, archive: tarfile.TarFile, member: tarfile.TarInfo, directory: int, name: str) -> None:
        fd = os.open(name, _NEW_FILE, 0o600, dir_fd=directory)
        try:
            # The raw reader: the buffered one around it asks the stream to seek back, which no pipe can.
            source = archive.extractfile(member).raw  # type: ignore[union-attr]
            for offset, size in _runs(member):
                source.seek(offset)
                self._copy(source, fd, offset, size)
            os.ftruncate(fd, member.size)
            settle_fd(fd, member, self.may, self.outcome)
        finally:
            os.close(fd)

    def _copy(self, source: Any, fd: int, offset: int, size: int) -> None:
        """Copy a run of data; blocks of zeros become holes, so that a bomb of zeros fills no disk."""
        left = size
        while left:
            chunk = source.read(min(left, _COPY_BYTES))
            if not chunk:
                raise BadData("cannot unpack", why="the archive ends in the middle of a file")
            if chunk != _ZEROS[: len(chunk)]:
                os.pwrite(fd, chunk, offset)
            offset, left = offset + len(chunk), left - len(chunk)
        self.outcome.content_bytes += size

    def _hard_link(self, member: tarfile.TarInfo, directory: int, name: str) -> None:
        at, last = self._parent(member.linkname)
        found = self._lookup((*at, last)) if last else None
        if found is None or stat.S_ISDIR(found.status.st_mode) or is_whiteout(found.status):
            raise BadData(
                "cannot unpack", why=f"a hard link to {member.linkname!r}, which is no file in the image"
            )
        if self.target in found.path.parents:
            os.link(last, name, src_dir_fd=self._open(at), dst_dir_fd=directory, follow_symlinks=False)
        else:
            copy_file(found, name, directory, self.may)

    def _device(self, member: tarfile.TarInfo, directory: int, name: str) -> None:
        kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK if member.isblk() else stat.S_IFIFO
        number = 0 if member.isfifo() else os.makedev(member.devmajor, member.devminor)
        if member.ischr() and number == 0:
            raise BadData("cannot unpack", why="a device 0:0, which overlayfs would take for a deletion")
        try:
            os.mknod(name, kind | 0o600, number, dir_fd=directory)
        except PermissionError:
            self.outcome.limits.add("device nodes need root: they are left out")
            return
        self._settle(member, directory, name)

    def _settle(self, member: tarfile.TarInfo, directory: int, name: str) -> None:
        settle_at(directory, name, member, self.may, self.outcome)

    # the end

    def finish(self) -> None:
        """Write the whiteouts, then the directories' metadata, the deepest first."""
        for at in self._whiteouts:
            self._write_whiteout(at)
        for at in sorted(self._opaque, key=len):
            if at and self._lower.directories(at):
                os.setxattr(self._open(at), self.may.overlay_xattr + "opaque", b"y")
        for at in sorted(self._directories, key=len, reverse=True):
            self.at = "/" + "/".join(at)
            settle_fd(self._open(at), self._directories[at], self.may, self.outcome)
            self._drop_held(at)

    def _write_whiteout(self, at: Parts) -> None:
        """Hide what lower layers have; this layer's own file of that name stays, a directory turns opaque."""
        here = lstat(self.target.joinpath(*at))
        if here is not None:
            if stat.S_ISDIR(here.st_mode):
                self._opaque.add(at)
        elif not self._hidden(at) and self._lower.lookup(at) is not None:
            # Making a device 0:0 needs no privilege since Linux 5.8.
            os.mknod(at[-1], stat.S_IFCHR, os.makedev(0, 0), dir_fd=self._open(at[:-1]))


def _runs(member: tarfile.TarInfo) -> list[tuple[int, int]]:
    """The runs of data in an entry, (offset, bytes): several in a sparse file."""
    found: list[tuple[int, int]] | None = getattr(member, "sparse", None)
    return [(0, member.size)] if found is None else found
