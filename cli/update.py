"""vmm update: other limits for an instance that exists, live where the backend can."""

from __future__ import annotations

import argparse
from typing import Any

from cli.run import cpus_of
from host.errors import Usage
from host.sizes import parse_bytes
from instances import registry, runs


def configure(parser: argparse.ArgumentParser) -> None:
    """What can be changed."""
    parser.add_argument("-m", "--memory", metavar="SIZE", help="memory limit, or the machine's memory")
    parser.add_argument("--cpus", metavar="N", help="processors")
    parser.add_argument("--pids-limit", metavar="N", type=int, help="most processes (containers)")
    parser.add_argument("--cpu-shares", metavar="N", type=int, help="weight against neighbours (containers)")
    parser.add_argument("--memory-swap", metavar="SIZE", help="memory and swap together (containers)")
    parser.add_argument("--cpuset-cpus", metavar="LIST", help="which processors (containers)")
    parser.add_argument("--blkio-weight", metavar="N", type=int, help="share of the disks (containers)")
    parser.add_argument("--restart", metavar="POLICY", help="another restart policy (containers)")
    disk, nic = "a disk more (machines)", "one more card of QEMU's NAT (running machines)"
    forms = "NAME=SIZE|FILE|libvirt:POOL/VOLUME"
    parser.add_argument("--add-disk", metavar=forms, action="append", default=[], help=disk)
    parser.add_argument("--remove-disk", metavar="NAME", action="append", default=[], help="take it away")
    parser.add_argument("--add-nic", metavar="NAME", action="append", default=[], help=nic)
    parser.add_argument("--remove-nic", metavar="NAME", action="append", default=[], help="take it away")
    parser.add_argument("names", metavar="NAME", nargs="+", help="an instance's name or the start of its id")


def main(args: argparse.Namespace) -> int:
    """Change it, and say whether it holds now or from the next start."""
    asked: dict[str, Any] = {
        "memory_bytes": None if args.memory is None else parse_bytes(args.memory, "memory size"),
        "cpus": None if args.cpus is None else cpus_of(args.cpus),
        "pids": args.pids_limit,
        "shares": args.cpu_shares,
        "memory_swap_bytes": None if args.memory_swap is None else parse_bytes(args.memory_swap, "swap size"),
        "cpuset": args.cpuset_cpus,
        "io_weight": args.blkio_weight,
        "restart": args.restart,
    }
    changes = {key: value for key, value in asked.items() if value is not None}
    plugs = [(word, one) for word in _PLUGS for one in getattr(args, word)]
    if not changes and not plugs:
        raise Usage("nothing to update", hint="for example --memory 512M or --cpus 2")
    for name in args.names:
        live = runs.update(registry.find(name), changes) if changes else True
        for word, one in plugs:
            live = _plug(registry.find(name), word, one) and live
        print(f"{name}: {'in force' if live else 'from its next start'}")
    return 0


_PLUGS = ("remove_disk", "remove_nic", "add_disk", "add_nic")


def _plug(instance: registry.Instance, word: str, one: str) -> bool:
    from instances import plugging

    done: bool = getattr(plugging, word)(instance, one)
    return done
