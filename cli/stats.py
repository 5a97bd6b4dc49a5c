"""vmm stats: processor, memory and input/output of running instances, live."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from cli import table
from host.errors import Failure
from host.sizes import format_bytes
from instances import kinds, registry, runs


def configure(parser: argparse.ArgumentParser) -> None:
    """The flags of stats."""
    add = parser.add_argument
    add("--no-stream", action="store_true", help="once, and end")
    add("--json", action="store_true", help="one JSON document, once")
    add("--interval", metavar="S", type=float, default=1.0, help="seconds between two looks (1)")
    add("names", metavar="NAME", nargs="*", help="these only")


def main(args: argparse.Namespace) -> int:
    """Print a table until Ctrl-C, or once."""
    once = args.no_stream or args.json
    before = _look(args.names)
    while True:
        time.sleep(max(0.05, args.interval))
        after = _look(args.names)
        rows = [_rates(one, before.get(name)) for name, one in after.items()]
        if args.json:
            print(table.document(instances=rows))
        else:
            if not once and sys.stdout.isatty():
                sys.stdout.write("\033[H\033[2J")
            print(_columns(rows), flush=True)
        if once:
            return 0
        before = after


def _look(wanted: list[str]) -> dict[str, dict[str, Any]]:
    chosen = [registry.find(name) for name in wanted] or [
        row.instance for row in runs.listing() if row.state in kinds.RUNNING
    ]
    seen = {}
    for instance in chosen:
        try:
            told = kinds.optional(instance, "stats")()
        except Failure:
            if wanted:
                raise
            continue  # it ended between the list and our look
        seen[instance.name] = {
            "name": instance.name,
            "kind": instance.kind,
            "at_ns": time.monotonic_ns(),
            **told,
        }
    return seen


def _rates(now: dict[str, Any], before: dict[str, Any] | None) -> dict[str, Any]:
    """The look with the processors' use since the last one, in units of one processor."""
    used = None
    if before is not None and now.get("cpu_ns") is not None and before.get("cpu_ns") is not None:
        used = (now["cpu_ns"] - before["cpu_ns"]) / max(1, now["at_ns"] - before["at_ns"])
    return {**now, "cpus_used": used}


def _columns(rows: list[dict[str, Any]]) -> str:
    header = ["NAME", "KIND", "CPU %", "MEMORY", "LIMIT", "PIDS", "NET IN/OUT", "DISK IN/OUT"]
    return table.columns(header, [_cells(one) for one in rows])


def _cells(one: dict[str, Any]) -> list[str]:
    used = one["cpus_used"]
    return [
        one["name"],
        one["kind"],
        "-" if used is None else f"{100 * used:.1f}",
        _size(one.get("memory_bytes")),
        _size(one.get("memory_limit_bytes")),
        str(one.get("pids") if one.get("pids") is not None else "-"),
        f"{_size(one.get('net_rx_bytes'))} / {_size(one.get('net_tx_bytes'))}",
        f"{_size(one.get('block_read_bytes'))} / {_size(one.get('block_write_bytes'))}",
    ]


def _size(value: float | None) -> str:
    return "-" if value is None else format_bytes(value)
