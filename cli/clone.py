"""vmm clone: an instance from another one, alive or not."""

from __future__ import annotations

import argparse
import sys

from host.errors import Usage


def configure(parser: argparse.ArgumentParser) -> None:
    """The words of clone."""
    parser.add_argument("name", metavar="NAME", help="the machine to clone")
    parser.add_argument("new", metavar="NEW", help="the name of the clone")
    parser.add_argument("--full", action="store_true", help="a disk that stands on no image")
    parser.add_argument("--live", action="store_true", help="while it runs: memory and disk, both go on")


def main(args: argparse.Namespace) -> int:
    """Clone, and say for how long the source stood still."""
    from instances import cloning, registry

    if args.live and args.full:
        raise Usage(
            "--live and --full do not go together", hint="stop the machine, then clone it with --full"
        )
    new, away_s = cloning.clone(registry.find(args.name), args.new, args.live, args.full)
    print(new.name)
    if args.live:
        sys.stderr.write(f"vmm: {args.name} stood still for {away_s:.2f} s; its clone publishes no ports\n")
    return 0
