"""vmm cp: files in and out of an instance."""

from __future__ import annotations

import argparse
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from host import archives
from host.errors import BadData, NotFound, Usage
from instances import kinds, registry

if TYPE_CHECKING:
    from collections.abc import Callable


def configure(parser: argparse.ArgumentParser) -> None:
    """Where from, where to."""
    parser.description = "Copy files between the host and an instance: one side is NAME:PATH."
    parser.add_argument("source", metavar="SRC", help="a path, NAME:PATH, or - for a tar archive on stdin")
    parser.add_argument("target", metavar="DST", help="a path, NAME:PATH, or - for a tar archive on stdout")


def main(args: argparse.Namespace) -> int:
    """Copy; folders with all that is in them, links as links."""
    source, target = _side(args.source), _side(args.target)
    if source is not None and target is not None:
        raise Usage("cannot copy between two instances", hint="copy to the host first")
    if source is not None:
        name, path = source
        copy_out = kinds.optional(registry.find(name), "copy_out")
        if args.target == "-":
            _write_archive(copy_out, path)
        else:
            copy_out(path, Path(args.target))
    elif target is not None:
        name, path = target
        copy_in = kinds.optional(registry.find(name), "copy_in")
        if args.source == "-":
            _read_archive(copy_in, path)
        elif not Path(args.source).exists():
            raise NotFound("nothing to copy at", args.source)
        else:
            copy_in(Path(args.source), path)
    else:
        raise Usage("cannot copy", why="neither side is an instance", hint="write one side as NAME:PATH")
    return 0


def _side(text: str) -> tuple[str, str] | None:
    """NAME and path of `NAME:PATH`; a path of the host that has a colon is written `./a:b`, as for docker."""
    name, colon, path = text.partition(":")
    if not colon or "/" in name or name in (".", "..", ""):
        return None
    if not path:
        raise Usage("cannot copy", repr(text), "no path after the colon", f"for example {name}:/etc/hostname")
    return name, path


def _write_archive(copy_out: Callable[[str, Path], None], path: str) -> None:
    """What is at `path` as a tar archive on stdout, by way of a copy of our own."""
    if sys.stdout.isatty():
        raise Usage("cannot write an archive to a terminal", hint="vmm cp NAME:PATH - | tar x")
    with tempfile.TemporaryDirectory(prefix="vmm-cp-") as folder:
        name = path.rstrip("/").rsplit("/", 1)[-1] or "root"
        copy_out(path, Path(folder, name))
        with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
            archive.add(Path(folder, name), name)


def _read_archive(copy_in: Callable[[Path, str], None], path: str) -> None:
    """Unpack the tar archive on stdin into the directory `path`; nothing of it may leave that directory."""
    with tempfile.TemporaryDirectory(prefix="vmm-cp-") as folder:
        try:
            with tarfile.open(fileobj=sys.stdin.buffer, mode="r|*") as archive:
                archives.unpack(archive, folder)
        except tarfile.TarError as error:
            raise BadData("cannot read the archive on stdin", why=str(error)) from None
        for entry in sorted(Path(folder).iterdir()):
            copy_in(entry, path)
