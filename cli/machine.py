"""vmm reset, compact: what only machines know."""

from __future__ import annotations

import argparse

from host.errors import Unsupported
from host.sizes import format_bytes
from instances import kinds, registry


def configure(parser: argparse.ArgumentParser) -> None:
    """The flags of each word."""
    parser.add_argument("names", metavar="NAME", nargs="+", help="a machine's name or the start of its id")


def main(args: argparse.Namespace) -> int:
    """Do it for each machine."""
    for name in args.names:
        instance = registry.find(name)
        if instance.kind != kinds.MACHINE:
            hint = f"vmm restart {instance.name}" if args.command == "reset" else "vmm prune"
            raise Unsupported(f"cannot {args.command}", instance.name, "it is a container", hint)
        with registry.held(instance):
            {"reset": _reset, "compact": _compact}[args.command](instance)
    return 0


def _reset(instance: registry.Instance) -> None:
    kinds.optional(instance, "reset")()
    print(instance.name)


def _compact(instance: registry.Instance) -> None:
    before, after = kinds.optional(instance, "compact")()
    print(f"{instance.name}: {format_bytes(before)} before, {format_bytes(after)} after")
