"""What ADD does beyond COPY: archives are unpacked, addresses fetched; and who --chown names."""

from __future__ import annotations

import hashlib
import posixpath
from pathlib import Path
from urllib.parse import urlsplit

from host.errors import BadData, NotFound, Unsupported
from images import copying, ignore, unpack
from images.copying import Ownership, Source, Target
from images.merged import Merged

_MAX_FETCH_BYTES = 4 << 30


def is_remote(word: str) -> bool:
    """Whether a source of ADD is an address."""
    if word.startswith(("git@", "git://")) or word.partition("#")[0].endswith(".git"):
        raise Unsupported("cannot add", word, "git repositories are not fetched", "clone it into the context")
    return word.startswith(("http://", "https://"))


def remote(target: Target, url: str, owner: Ownership, checksum: str | None, scratch: Path) -> None:
    """Fetch a file and enter it, with mode 600 as docker does. BadData where its checksum is another."""
    from images import fetch

    name = posixpath.basename(urlsplit(url).path)
    if not name and target.is_directory:
        raise BadData("cannot add", url, "the address ends with no file name", "end the destination with one")
    path = fetch.fetch(url, scratch / "fetched", most_bytes=_MAX_FETCH_BYTES)
    if checksum is not None:
        with path.open("rb") as file:
            found = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        if found != checksum:
            raise BadData("cannot add", url, f"its checksum is {found}, not {checksum}")
    copying.inline(target, name, path.read_bytes(), owner, 0o600)


def archive(target: Target, source: Source, word: str, owner: Ownership, scratch: Path) -> bool:
    """Unpack a local archive into the target; False where the source is something else."""
    if ignore.has_wildcard(word):
        return False
    found = source.tree.find(word)
    if found is None or source.rules.leaves_out("/".join(source.tree.resolve(word))):
        return False
    if not copying.is_archive(found.path):
        return False
    root = scratch / f"unpacked{len(target.made)}"
    root.mkdir()
    with copying.open_archive(found.path) as plain:
        unpack.apply(plain, root, (), f"the archive {word}")
    keeps = Ownership(None, None) if (owner.uid, owner.gid) == (0, 0) else owner
    destination = Target(target.below, target.destination.rstrip("/") + "/", target.mtime_s)
    destination.parents = target.parents
    copying.copy(destination, Source(Merged((root,))), ["/"], keeps)
    target.made += destination.made
    return True


def ids(tree: Merged, text: str) -> tuple[int, int]:
    """The numbers of USER[:GROUP], names looked up in the image's files; the group defaults to the user's."""
    user, colon, group = text.partition(":")
    uid, own_gid = _user(tree, user)
    return uid, _group(tree, group) if colon and group else own_gid


def _user(tree: Merged, name: str) -> tuple[int, int]:
    if name.isdigit():
        return int(name), int(name)
    for fields in _lines(tree, "/etc/passwd"):
        if fields[0] == name and len(fields) > 3:
            return int(fields[2]), int(fields[3])
    raise NotFound("no user", repr(name), "the image's /etc/passwd has none of that name")


def _group(tree: Merged, name: str) -> int:
    if name.isdigit():
        return int(name)
    for fields in _lines(tree, "/etc/group"):
        if fields[0] == name and len(fields) > 2:
            return int(fields[2])
    raise NotFound("no group", repr(name), "the image's /etc/group has none of that name")


def _lines(tree: Merged, path: str) -> list[list[str]]:
    found = tree.find(path)
    text = found.path.read_text(errors="replace") if found is not None else ""
    return [line.split(":") for line in text.splitlines()]
