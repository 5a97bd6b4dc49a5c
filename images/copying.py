"""COPY and ADD: what their sources name in a tree, and the tar entries that put it where they say."""

from __future__ import annotations

import contextlib
import hashlib
import stat
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from host.errors import BadData, NotFound
from images import ignore, pack
from images.merged import Found, Merged, Parts, split

NO_RULES = ignore.Rules(())


@dataclass(frozen=True, slots=True)
class Source:
    """A tree to copy from, and what of it is left out."""

    tree: Merged
    rules: ignore.Rules = NO_RULES
    exclude: ignore.Rules = NO_RULES


@dataclass(frozen=True, slots=True)
class Ownership:
    """What --chown and --chmod say; None leaves what the source has (a context's files belong to root)."""

    uid: int | None = 0
    gid: int | None = 0
    mode: int | None = None

    def apply(self, member: tarfile.TarInfo) -> None:
        """Change the entry accordingly."""
        if self.uid is not None:
            member.uid = self.uid
        if self.gid is not None:
            member.gid = self.gid
        if self.mode is not None and not member.issym():
            member.mode = self.mode


@dataclass(slots=True)
class Target:
    """Where a COPY puts things: the tree below, and the entries made so far."""

    below: Merged
    destination: str
    mtime_s: int
    made: list[pack.Item] = field(default_factory=list)
    parents: set[Parts] = field(default_factory=set)

    @property
    def is_directory(self) -> bool:
        """Whether the destination ends with a slash or is a directory already."""
        if self.destination.endswith("/") or split(self.destination)[-1:] in ([], ["."]):
            return True
        found = self.below.find(self.destination)
        return found is not None and stat.S_ISDIR(found.status.st_mode)

    def real(self, *more: str) -> Parts:
        """The destination's real components in the tree below, with more components under it."""
        return self.below.resolve("/".join((self.destination, *more)))

    def ensure_parents(self, at: Parts) -> None:
        """Enter the directories above `at`: an unpacker that sees this layer alone must not invent them."""
        for n in range(1, len(at)):
            if at[:n] not in self.parents:
                self.parents.add(at[:n])
                self.made.append(self._directory(at[:n]))

    def _directory(self, at: Parts) -> pack.Item:
        name, found = "/".join(at), self.below.lookup(at)
        if found is None:
            return pack.directory(name, self.mtime_s)
        if not stat.S_ISDIR(found.status.st_mode):
            raise BadData("cannot copy", f"to /{name}", "it is a file in the image, not a directory")
        return next(pack.items([(name, found.path, found.status)]))


def copy(target: Target, source: Source, names: Sequence[str], owner: Ownership) -> None:
    """Enter what the names (patterns too) show in the source into the target.

    NotFound where a name shows nothing; BadData where several things would become one file.
    """
    found = [pair for name in names for pair in select(source, name)]
    if len(found) > 1 and not target.is_directory:
        raise BadData("cannot copy", target.destination, "several sources need a directory: end it with a /")
    for name, at in found:
        shown = source.tree.lookup(at)
        assert shown is not None
        if stat.S_ISDIR(shown.status.st_mode):
            _copy_directory(target, source, at, owner)
        else:
            _copy_file(target, name, shown, owner)


def select(source: Source, name: str) -> list[tuple[str, Parts]]:
    """What a source word shows: the name it would have, and its real components."""
    if not ignore.has_wildcard(name):
        at = source.tree.resolve(name)
        if source.tree.lookup(at) is None or source.rules.leaves_out("/".join(at)):
            raise NotFound(
                "cannot copy", repr(name), "it is not in the source, or .dockerignore leaves it out"
            )
        return [(split(name)[-1] if split(name) else "", at)]
    pattern = "/".join(split(name))
    paths = ["/".join(at) for at, _ in visible(source, ())]
    hits = ignore.matching(pattern, paths)
    if not hits:
        raise NotFound("cannot copy", repr(name), "nothing in the source matches it")
    return [(hit.rpartition("/")[2], tuple(hit.split("/"))) for hit in hits]


def visible(source: Source, at: Parts, base: int | None = None) -> Iterator[tuple[Parts, Found]]:
    """Everything below a directory that the rules do not leave out, parents first.

    `.dockerignore` speaks of paths in the context, --exclude of paths in the copied directory.
    """
    base = len(at) if base is None else base
    for name in source.tree.names(at):
        child, path = (*at, name), "/".join((*at, name))
        found = source.tree.lookup(child)
        out = source.rules.leaves_out(path) or source.exclude.leaves_out("/".join(child[base:]))
        if found is None:
            continue
        is_directory = stat.S_ISDIR(found.status.st_mode)
        if out and not (is_directory and source.rules.may_return(path)):
            continue
        below = list(visible(source, child, base)) if is_directory else []
        if not out or below:
            yield child, found
        yield from below


def _copy_directory(target: Target, source: Source, at: Parts, owner: Ownership) -> None:
    base = target.real()
    target.ensure_parents((*base, ""))
    entries = []
    for child, found in visible(source, at):
        place = _place(target, base, child[len(at) :], found)
        entries.append(("/".join(place), found.path, found.status))
    target.made += pack.items(entries, owner.apply)


def _place(target: Target, base: Parts, below: Parts, found: Found) -> Parts:
    """Where a file of a copied directory goes: through the links that the image has among its directories."""
    if stat.S_ISDIR(found.status.st_mode):
        place = target.below.resolve("/".join((*base, *below)))
        existing = target.below.lookup(place)
        if existing is not None and not stat.S_ISDIR(existing.status.st_mode):
            raise BadData(
                "cannot copy", f"to /{'/'.join(place)}", "it is a file in the image, not a directory"
            )
        target.parents.add(place)
        return place
    return (*target.below.resolve("/".join((*base, *below[:-1]))), below[-1])


def _copy_file(target: Target, name: str, found: Found, owner: Ownership) -> None:
    place = target.real(name) if target.is_directory else target.real()
    target.ensure_parents(place)
    target.made += pack.items([("/".join(place), found.path, found.status)], owner.apply)


def inline(target: Target, name: str, content: bytes, owner: Ownership, mode: int = 0o644) -> None:
    """Enter a file whose content is at hand: a here-document, a download."""
    place = target.real(name) if target.is_directory else target.real()
    target.ensure_parents(place)
    member = tarfile.TarInfo("/".join(place))
    member.size, member.mode, member.mtime = len(content), mode, target.mtime_s
    owner.apply(member)
    target.made.append((member, content))


def digest(made: Sequence[pack.Item]) -> str:
    """What the entries hold, times left out: two copies with the same digest are the same to the cache."""
    seen = hashlib.sha256()
    for member, content in made:
        pax = sorted((k, v) for k, v in member.pax_headers.items() if k != "mtime")
        facts = (
            member.name,
            member.type,
            member.mode,
            member.uid,
            member.gid,
            member.linkname,
            member.size,
            pax,
        )
        seen.update(repr(facts).encode("utf-8", "surrogateescape"))
        seen.update(_content_digest(content))
    return seen.hexdigest()


def _content_digest(content: Path | bytes | None) -> bytes:
    if isinstance(content, Path):
        with content.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    return hashlib.sha256(content or b"").digest()


def is_archive(path: Path) -> bool:
    """Whether ADD unpacks the file: a tar, plain or packed by gzip, bzip2 or xz, told by its content."""
    with contextlib.suppress(OSError, tarfile.TarError, EOFError):
        return path.stat().st_size > 0 and tarfile.is_tarfile(path)
    return False


@contextlib.contextmanager
def open_archive(path: Path) -> Iterator[BinaryIO]:
    """The plain tar of a local archive, whatever packs it."""
    import bz2
    import gzip
    import lzma

    with path.open("rb") as file:
        start = file.read(6)
        file.seek(0)
        opened: Any = file
        if start[:2] == b"\x1f\x8b":
            opened = gzip.GzipFile(fileobj=file)
        elif start[:3] == b"BZh":
            opened = bz2.BZ2File(file)
        elif start == b"\xfd7zXZ\x00":
            opened = lzma.LZMAFile(file)  # noqa: SIM115 (it closes no more than `file` does)
        yield opened
