"""vmm events: what happens to instances, as it happens."""

from __future__ import annotations

import argparse
import json
import time

from cli import listing
from host.sizes import parse_seconds
from instances import events, kinds, registry, runs


def configure(parser: argparse.ArgumentParser) -> None:
    """The flags of events."""
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--since", metavar="TIME", help="begin with those of the last 30s, 1h30m ...")
    parser.add_argument("--no-follow", action="store_true", help="only those that were; do not wait for more")
    parser.add_argument("names", metavar="NAME", nargs="*", help="of these instances only")


def main(args: argparse.Namespace) -> int:
    """Print events until Ctrl-C."""
    since_s = 1e12 if args.no_follow else None
    if args.since is not None:
        since_s = parse_seconds(args.since)
    if since_s is not None:
        begin = time.time() - since_s
        for event in events.past():
            if event["at_unix_s"] >= begin:
                _tell(event, args)
    if args.no_follow:
        return 0
    for event in events.follow(_look):
        _tell(event, args)
    return 0


def _look() -> dict[str, events.Seen]:
    return {one.name: _seen(runs.row(one)) for one in registry.every()}


def _seen(row: runs.Row) -> events.Seen:
    spec, restarts = row.instance.spec, 0
    if not row.trouble and (spec.get("restart", "no") != "no" or spec.get("health")):
        restarts = kinds.backend(row.instance).inspect().get("restarts", 0)
    return events.Seen(row.instance.kind, row.state, row.status, listing.health(row), restarts)


def _tell(event: events.Event, args: argparse.Namespace) -> None:
    if args.names and event["name"] not in args.names:
        return
    if args.json:
        print(json.dumps(event), flush=True)
        return
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event["at_unix_s"]))
    known = ("at_unix_s", "event", "name", "kind")
    more = "".join(f" {key}={value}" for key, value in event.items() if key not in known)
    print(f"{at} {event['kind']} {event['name']} {event['event']}{more}", flush=True)
