"""vmm cp: files in and out of an instance."""

from __future__ import annotations

import argparse
from pathlib import Path

from host.errors import NotFound, Usage
from instances import kinds, registry


def configure(parser: argparse.ArgumentParser) -> None:
    """Where from, where to."""
    parser.description = "Copy files between the host and an instance: one side is NAME:PATH."
    parser.add_argument("source", metavar="SRC", help="a path, or NAME:PATH")
    parser.add_argument("target", metavar="DST", help="a path, or NAME:PATH")


def main(args: argparse.Namespace) -> int:
    """Copy; folders with all that is in them, links as links."""
    source, target = _side(args.source), _side(args.target)
    if source is not None and target is not None:
        raise Usage("cannot copy between two instances", hint="copy to the host first")
    if source is not None:
        name, path = source
        kinds.optional(registry.find(name), "copy_out")(path, Path(args.target))
    elif target is not None:
        if not Path(args.source).exists():
            raise NotFound("nothing to copy at", args.source)
        name, path = target
        kinds.optional(registry.find(name), "copy_in")(Path(args.source), path)
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
