"""vmm ls: the instances of both kinds in one list."""

from __future__ import annotations

import argparse

from cli import table
from host.errors import Usage
from host.typing import Any
from instances import kinds, names, registry, runs

_FILTERS = ("name", "state", "kind", "image", "label", "id", "driver", "status")


def configure(parser: argparse.ArgumentParser) -> None:
    """The flags of ls."""
    add = parser.add_argument
    add("-a", "--all", action="store_true", help="those that stand still, too")
    add("-q", "--quiet", action="store_true", help="short ids only")
    add(
        "-f",
        "--filter",
        metavar="K=V",
        action="append",
        default=[],
        help=f"K is one of {', '.join(_FILTERS)}",
    )
    add("--no-trunc", action="store_true", help="whole ids and commands")
    add("--json", action="store_true", help="one JSON document")
    add("--format", metavar="FORM", help="a line for each, for example '{name} {state}', or json")


def main(args: argparse.Namespace) -> int:
    """Print the list."""
    wanted = [_pair(text) for text in args.filter]
    show_all = args.all or any(key in ("state", "status") for key, _ in wanted)
    always = kinds.RUNNING | {kinds.RESTARTING, "unknown"}
    rows = [row for row in runs.listing() if show_all or row.state in always]
    shown = [fields for row in rows if _matches(fields := facts(row), wanted)]
    if args.json or args.format == "json":
        print(table.document(instances=shown))
    elif args.quiet:
        table.say("\n".join(one["id"] if args.no_trunc else names.short(one["id"]) for one in shown))
    elif args.format:
        table.say("\n".join(table.formed(args.format, one) for one in shown))
    else:
        print(_columns(shown, args.no_trunc))
    return 0


def facts(row: runs.Row) -> dict[str, Any]:
    """What ls knows of one instance: the fields of --json, --format and --filter."""
    one = row.instance
    return {
        "id": one.id,
        "name": one.name,
        "kind": one.kind,
        "image": one.image,
        "image_digest": one.image_digest,
        "command": list(one.command),
        "created_unix_s": one.created_unix_s,
        "state": row.state,
        "status": row.status,
        "health": health(row),
        "trouble": row.trouble,
        "driver": one.spec.get("driver", "qemu") if one.kind == kinds.MACHINE else "",
        "ports": _ports(row),
        "labels": one.labels,
        "rm": one.rm,
    }


def health(row: runs.Row) -> str:
    """What the check of a running instance last said; nothing where there is none."""
    if row.state != "running" or not row.instance.spec.get("health"):
        return ""
    return str((kinds.backend(row.instance).inspect()["health"] or {}).get("status", "starting"))


def _ports(row: runs.Row) -> list[str]:
    """Published ports as words; which one the kernel chose for port 0 is known as long as it runs."""
    one = row.instance
    ports = [tuple(port) for port in one.spec.get("ports", [])]
    if row.state in kinds.RUNNING and any(port[1] == 0 for port in ports):
        ports = [(port.host_ip, port.host_port, port.port, port.protocol) for port in runs.ports(one)]
    for nic in one.spec.get("nics", ()):  # a machine's
        ports += [(f["host_ip"], f["host"], f["guest"], f["protocol"]) for f in nic["forwards"] if f["host"]]
    return [f"{ip}:{host}->{inside}/{protocol}" for ip, host, inside, protocol in ports]


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or key not in _FILTERS:
        raise Usage("cannot filter by", repr(text), hint=f"write K=V, K one of {', '.join(_FILTERS)}")
    return key, value


def _matches(fields: dict[str, Any], wanted: list[tuple[str, str]]) -> bool:
    """docker's rule: several values of one key are alternatives, several keys must all hold."""
    keys = {key for key, _ in wanted}
    return all(any(_holds(fields, key, value) for k, value in wanted if k == key) for key in keys)


def _holds(fields: dict[str, Any], key: str, value: str) -> bool:
    if key == "label":
        label, equals, content = value.partition("=")
        return label in fields["labels"] and (not equals or fields["labels"][label] == content)
    if key == "name":
        return value in fields["name"]
    if key == "id":
        return str(fields["id"]).startswith(value)
    if key == "status":  # docker's word for the state
        return value in (fields["state"], str(fields["status"]))
    if key == "image":
        return value in (fields["image"], fields["image"].partition(":")[0], fields["image_digest"])
    return str(fields[key]) == value


def _columns(shown: list[dict[str, Any]], whole: bool) -> str:
    now = registry.now_unix_s()
    rows = [
        [
            one["id"] if whole else names.short(one["id"]),
            one["name"],
            one["kind"],
            one["image"],
            _command(one["command"], whole),
            table.ago(now - one["created_unix_s"]) + " ago",
            state_words(one["state"], one["status"], one["health"]),
            ", ".join(one["ports"]),
        ]
        for one in shown
    ]
    return table.columns(["ID", "NAME", "KIND", "IMAGE", "COMMAND", "CREATED", "STATE", "PORTS"], rows)


def _command(words: list[str], whole: bool) -> str:
    text = " ".join(words).replace("\n", " ")
    return text if whole or len(text) <= 30 else text[:29] + "…"


def state_words(state: str, status: int | None, health: str = "") -> str:
    """`exited (0)`, `running (healthy)`; a status that nobody saw is unknown, never 0."""
    if state not in kinds.ENDED:
        return f"{state} ({health})" if health else state
    return f"{state} ({'unknown' if status is None else status})"
