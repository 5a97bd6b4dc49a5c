"""vmm migrate: a running machine goes on in a fresh QEMU of the same host."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, cast

from host import records
from host.errors import Unsupported, WrongState
from host.sizes import format_bytes, parse_bytes
from instances import kinds, registry

if TYPE_CHECKING:
    from vmm.machine import Machine


def configure(parser: argparse.ArgumentParser) -> None:
    """The flags of `vmm migrate`."""
    parser.add_argument("name", metavar="NAME", help="a machine's name or the start of its id")
    parser.add_argument("--bandwidth", metavar="SIZE", help="bytes a second at most (100M)")


def main(args: argparse.Namespace) -> int:
    """Move it, and say what it cost."""
    from vmm import migrate, stream

    instance = registry.find(args.name)
    if instance.kind != kinds.MACHINE:
        hint = f"vmm stop {instance.name}, vmm commit, and start the image elsewhere"
        raise Unsupported("cannot migrate", instance.name, "it is a container", hint)
    if not records.is_free(instance.folder):
        why = "a vmm run in the foreground waits for its QEMU"
        raise WrongState("cannot migrate", instance.name, why, "start it with -d")
    bytes_per_s = parse_bytes(args.bandwidth, "bandwidth") if args.bandwidth else stream.FULL_SPEED
    with registry.held(instance):
        moved = migrate.migrate(cast("Machine", kinds.backend(instance)), bytes_per_s)
    print(
        f"{instance.name}: stood still for {moved.downtime_s * 1000:.0f} ms of {moved.total_s:.2f} s, "
        f"{format_bytes(moved.bytes)} went over"
    )
    return 0
