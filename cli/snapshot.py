"""vmm snapshot: states of a machine to return to."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, cast

from cli import table
from host.errors import Unsupported, Usage
from host.sizes import format_bytes
from instances import kinds, registry

if TYPE_CHECKING:
    from vmm.machine import Machine
    from vmm.snapshots import Snapshot


def configure(parser: argparse.ArgumentParser) -> None:
    """The flags of `vmm snapshot`."""
    add = parser.add_argument
    add("action", choices=("create", "ls", "restore", "rm"), help="what to do")
    add("name", metavar="NAME", help="a machine's name or the start of its id")
    add(
        "snapshot",
        metavar="SNAPSHOT",
        nargs="?",
        help="the snapshot's name (create: a new one; default by time)",
    )
    add("--memory", action="store_true", help="keep the memory of a running machine too")
    add("--json", action="store_true", help="one JSON document")
    add("--verbose", action="store_true", help="say on stderr how the memory is kept, or was loaded")


def main(args: argparse.Namespace) -> int:
    """Keep, list, restore or remove a snapshot."""
    from vmm import snapshots

    progress = _drawn if sys.stderr.isatty() else (lambda done, total: None)
    instance = registry.find(args.name)
    if instance.kind != kinds.MACHINE:
        hint = f"vmm commit {instance.name} IMAGE keeps a container's files"
        raise Unsupported("no snapshots of", instance.name, "it is a container", hint)
    with registry.held(instance):
        machine = cast("Machine", kinds.backend(instance))
        if args.action == "ls":
            return _list(snapshots.listed(machine), args.json)
        if args.action == "create":
            tag = args.snapshot or time.strftime("s%Y%m%d-%H%M%S")
            snapshots.create(machine, tag, args.memory, progress)
            made = next(one for one in snapshots.listed(machine) if one.tag == tag)
            _tell(args, "the memory is kept as", made.memory_format)
            print(table.document(snapshot=made._asdict()) if args.json else tag)
            return 0
        if args.snapshot is None:
            raise Usage(
                f"vmm snapshot {args.action} needs the snapshot's name", hint=f"vmm snapshot ls {args.name}"
            )
        if args.action == "rm":
            snapshots.delete(machine, args.snapshot, progress)
            return 0
        began = time.monotonic()
        how = snapshots.restore(machine, args.snapshot, progress)
        took_s = time.monotonic() - began
        _tell(args, f"{1000 * took_s:.0f} ms, the memory by", how)
        if args.json:
            told = {"snapshot": args.snapshot, "memory_loaded_by": how, "took_s": round(took_s, 4)}
            print(table.document(**told))
    return 0


def _tell(args: argparse.Namespace, words: str, how: str) -> None:
    if args.verbose:
        sys.stderr.write(f"vmm: {words} {how}\n" if how else "vmm: disks alone, no memory\n")


def _drawn(done: int, total: int) -> None:
    sys.stderr.write(f"\r{100 * done // max(1, total):3d} %" + ("\n" if done >= total else ""))
    sys.stderr.flush()


def _list(found: list[Snapshot], as_json: bool) -> int:
    if as_json:
        print(table.document(snapshots=[one._asdict() for one in found]))
        return 0
    rows = [
        [
            one.tag,
            _taken(one),
            format_bytes(one.memory_bytes) if one.memory_format else "-",
            one.memory_format or "-",
        ]
        for one in found
    ]
    print(table.columns(["SNAPSHOT", "TAKEN", "MEMORY", "KEPT AS"], rows))
    return 0


def _taken(one: Snapshot) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.unix_s))
