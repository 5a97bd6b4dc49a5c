"""vmm volume create ls inspect rm prune: storage that outlives instances."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from cli import table
from host.errors import InUse
from instances import volumes


def configure(parser: argparse.ArgumentParser) -> None:
    """The words of volume."""
    words = parser.add_subparsers(dest="word", required=True, metavar="create|ls|inspect|rm|prune")
    create = words.add_parser("create", help="make an empty volume")
    create.add_argument("name", metavar="NAME")
    create.add_argument("-l", "--label", metavar="K=V", action="append", default=[])
    listing = words.add_parser("ls", help="list volumes")
    listing.add_argument("-q", "--quiet", action="store_true", help="names only")
    listing.add_argument("--json", action="store_true", help="one JSON document")
    inspect = words.add_parser("inspect", help="all that is known of a volume")
    inspect.add_argument("names", metavar="NAME", nargs="+")
    rm = words.add_parser("rm", help="delete volumes and their files")
    rm.add_argument("names", metavar="NAME", nargs="+")
    prune = words.add_parser("prune", help="delete every volume that no instance names")
    prune.add_argument("-f", "--force", action="store_true", help="do not ask")


def main(args: argparse.Namespace) -> int:
    """Do the word."""
    if args.word == "create":
        return _create(args)
    if args.word == "ls":
        return _ls(args)
    if args.word == "inspect":
        print(table.document(volumes=[_facts(volumes.find(name)) for name in args.names]))
        return 0
    if args.word == "prune":
        return _prune(args.force)
    for name in args.names:
        volumes.remove(name)
        print(name)
    return 0


def _prune(force: bool) -> int:
    """At a terminal it is asked first: what is in a volume is nowhere else."""
    if not force and sys.stdin.isatty() and (idle := [one.name for one in volumes.every() if not one.users]):
        question = f"This deletes {', '.join(idle)} and all that is in them. Go on? [y/N] "
        if input(question).strip().lower() not in ("y", "yes"):
            return 1
    table.say("\n".join(volumes.prune()))
    return 0


def _create(args: argparse.Namespace) -> int:
    labels = {key: value for key, _, value in (word.partition("=") for word in args.label)}
    if not volumes.ensure(args.name, labels):
        raise InUse(
            "cannot make the volume", repr(args.name), "it is there already", "vmm volume ls lists them"
        )
    print(args.name)
    return 0


def _ls(args: argparse.Namespace) -> int:
    found = volumes.every()
    if args.json:
        print(table.document(volumes=[_facts(one) for one in found]))
    elif args.quiet:
        table.say("\n".join(one.name for one in found))
    else:
        print(table.columns(["NAME", "USED BY"], [[one.name, ", ".join(one.users)] for one in found]))
    return 0


def _facts(volume: volumes.Volume) -> dict[str, Any]:
    return {**volume._asdict(), "data": str(volume.data)}
