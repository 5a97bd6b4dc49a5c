"""vmm inspect explain top logs port: looking at one instance."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from cli import table
from host.errors import NotFound, Unsupported, Usage
from instances import kinds, registry, runs


def configure(parser: argparse.ArgumentParser) -> None:
    """The flags of each word."""
    command, add = parser.get_default("command"), parser.add_argument
    if command == "inspect":
        add("--format", metavar="FORM", default="json", help="json, yaml, or a form such as '{state}'")
    if command == "explain":
        add("--dry-run", action="store_true", help="the plan of its next start instead of what runs now")
    if command == "logs":
        add("-f", "--follow", action="store_true", help="go on as it says more, until it ends")
        add("-n", "--tail", metavar="N", default="all", help="the last N lines only")
        add("-t", "--timestamps", action="store_true", help="when each line was said")
        add("--since", metavar="TIME", help="what was said in the last 10m, or since 2026-11-21T14:00:00")
    many = "+" if command == "inspect" else None
    add(
        "names" if many else "name",
        metavar="NAME",
        nargs=many,
        help="an instance's name or the start of its id",
    )
    if command == "port":
        add("port", metavar="PORT[/udp]", nargs="?", help="this port only")
        add("--add", metavar="[IP:]H:G", action="append", default=[], help="publish one more, while it runs")
        add("--remove", metavar="H:G", action="append", default=[], help="take a published port back")


def main(args: argparse.Namespace) -> int:
    """Print what was asked for."""
    if args.command == "inspect":
        return _inspect(args)
    instance = registry.find(args.name)
    return {"explain": _explain, "top": _top, "logs": _logs, "port": _port}[args.command](instance, args)


def _inspect(args: argparse.Namespace) -> int:
    found = [_everything(registry.find(name)) for name in args.names]
    if args.format == "json":
        print(table.document(instances=found))
    elif args.format == "yaml":
        import yaml

        print(
            yaml.safe_dump({"schema_version": table.SCHEMA_VERSION, "instances": found}, sort_keys=False),
            end="",
        )
    else:
        table.say("\n".join(table.formed(args.format, one) for one in found))
    return 0


def _everything(instance: registry.Instance) -> dict[str, Any]:
    from cli.listing import facts

    row = runs.row(instance)
    own: dict[str, Any] = {} if row.trouble else kinds.backend(instance).inspect()
    return {
        **facts(row),
        "folder": str(instance.folder),
        "run": str(instance.run),
        "spec": instance.spec,
        **own,
    }


def _explain(instance: registry.Instance, args: argparse.Namespace) -> int:
    backend = kinds.backend(instance)
    print(backend.plan() if args.dry_run else backend.explain())
    return 0


def _top(instance: registry.Instance, args: argparse.Namespace) -> int:
    header, *rows = kinds.optional(instance, "top")()
    print(table.columns(header, rows))
    return 0


def _logs(instance: registry.Instance, args: argparse.Namespace) -> int:
    sys.stdout.flush()
    words = (args.follow, _tail(args.tail), args.timestamps, 1)
    if args.since is None:
        kinds.backend(instance).logs(*words)
        return 0
    if instance.kind == kinds.MACHINE:
        raise Unsupported("--since is not for a machine", hint="--tail N shows the last lines")
    kinds.optional(instance, "logs")(*words, since_unix_s=_moment(args.since))
    return 0


def _moment(text: str) -> float:
    """The Unix time of `10m` (ago) or of a date and time, which is local unless it names its zone."""
    import time
    from datetime import datetime

    from host.sizes import parse_seconds

    if "-" in text:
        try:
            return datetime.fromisoformat(text).timestamp()
        except ValueError:
            pass  # told as any other word that is no time
    return time.time() - parse_seconds(text, "moment")


def _tail(text: str) -> int | None:
    if text == "all":
        return None
    if not (text.isascii() and text.isdigit()):
        raise Usage("cannot show the last", repr(text), "not a number of lines", "for example --tail 20")
    return int(text)


def _port(instance: registry.Instance, args: argparse.Namespace) -> int:
    if args.add or args.remove:
        from host.linux.net import parse_ports
        from instances import publishing

        publishing.unpublish(instance, [one for text in args.remove for one in parse_ports(text)])
        wanted = [one for text in args.add for one in parse_ports(text)]
        publishing.publish(registry.find(instance.name), wanted)
        instance = registry.find(instance.name)
    ports = runs.ports(instance)
    if args.port:
        number, _, protocol = args.port.partition("/")
        ports = [one for one in ports if (str(one.port), one.protocol) == (number, protocol or "tcp")]
        if not ports:
            raise NotFound("no published port", args.port, f"{instance.name} does not publish it")
    for one in ports:
        place = f"{one.host_ip}:{one.host_port}"
        print(place if args.port else f"{one.port}/{one.protocol} -> {place}")
    return 0
