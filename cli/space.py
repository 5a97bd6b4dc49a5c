"""vmm df, vmm prune: what takes disk space, and giving back what nothing uses."""

from __future__ import annotations

import argparse

from cli import table
from host.sizes import format_bytes
from instances import space


def configure(parser: argparse.ArgumentParser) -> None:
    """The flags of df and prune."""
    if parser.get_default("command") == "df":
        parser.add_argument("--json", action="store_true", help="one JSON document")
        return
    parser.add_argument("-a", "--all", action="store_true", help="every image that no instance uses, too")
    parser.add_argument("--volumes", action="store_true", help="volumes that no instance names, too")
    parser.add_argument("-f", "--force", action="store_true", help="do not ask")


def main(args: argparse.Namespace) -> int:
    """Print the use of space, or free some."""
    if args.command == "df":
        return _df(args.json)
    if not args.force and not _agreed(args):
        return 1
    removed = space.prune(images=args.all, volumes=args.volumes)
    table.say("\n".join(f"removed {line}" for line in removed.removed))
    print(f"freed {format_bytes(removed.freed_bytes)}")
    return 0


def _df(as_json: bool) -> int:
    uses = space.uses()
    if as_json:
        print(table.document(uses=[one._asdict() for one in uses]))
        return 0
    rows = [[one.what, str(one.number), str(one.active), format_bytes(one.allocated_bytes)] for one in uses]
    print(table.columns(["WHAT", "COUNT", "ACTIVE", "ON DISK"], rows))
    return 0


def _agreed(args: argparse.Namespace) -> bool:
    import sys

    if not sys.stdin.isatty():
        sys.stderr.write("vmm prune: not a terminal to ask on\nhint: vmm prune --force\n")
        return False
    what = ["every instance that stands still", "caches"]
    what += ["every image that no instance uses"] if args.all else []
    what += ["every volume that no instance names"] if args.volumes else []
    return input(f"This removes {', '.join(what)}. Go on? [y/N] ").strip().lower() in ("y", "yes")
