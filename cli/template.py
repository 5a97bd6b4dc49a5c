"""vmm template create ls rm inspect: frozen machines from which clones start at once."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli import table
from host import paths
from host.errors import Failure, NotFound, Usage
from host.sizes import format_bytes, parse_bytes

if TYPE_CHECKING:
    from vmm.templates import Template


class _Words(argparse.ArgumentParser):
    """Where a word takes a COMMAND, what follows `--` is it: argparse takes none behind an option."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's own, which calls it with what follows the word."""
        words = list(args or ())
        if "--" not in words or self.get_default("arguments") is None:
            return super().parse_known_args(words, namespace)
        at = words.index("--")
        known, rest = super().parse_known_args(words[:at], namespace)
        known.arguments = [*known.arguments, *words[at + 1 :]]
        return known, rest


def configure(parser: argparse.ArgumentParser) -> None:
    """The words of template."""
    names = "create|ls|inspect|pool|rm"
    words = parser.add_subparsers(dest="word", required=True, metavar=names, parser_class=_Words)
    create = words.add_parser("create", help="freeze a machine: of an image, or one that runs")
    create.add_argument("name", metavar="NAME")
    create.add_argument("image", metavar="IMAGE|MACHINE", help="an image to boot, or a running machine")
    warmed = "its program is warmed, not run; `--` before it"
    create.add_argument("arguments", metavar="COMMAND", nargs="*", default=[], help=warmed)
    create.add_argument("-m", "--memory", metavar="SIZE")
    create.add_argument("--cpus", metavar="N", type=int)
    create.add_argument("--network", metavar="none|user")
    create.add_argument("--boot", metavar="MODE", help="direct, pvh or microvm")
    create.add_argument("--driver", choices=("qemu", "libvirt"), help="who runs the clones ($VMM_DRIVER)")
    create.add_argument("--accel", metavar="A", help="auto, kvm or tcg")
    create.add_argument("--cloud-init", metavar="FILE")
    create.add_argument("--ssh-key", metavar="FILE", action="append", default=[])
    create.add_argument("--pool", metavar="N", type=int, help="keep N paused clones ready to go on at once")
    listing = words.add_parser("ls", help="list templates; those of `vmm run` itself too")
    listing.add_argument("-q", "--quiet", action="store_true", help="names only")
    listing.add_argument("--json", action="store_true", help="one JSON document")
    inspect = words.add_parser("inspect", help="all that is known of templates")
    inspect.add_argument("names", metavar="NAME", nargs="+")
    pool = words.add_parser("pool", help="keep more or fewer paused clones of a template ready")
    pool.add_argument("name", metavar="NAME")
    pool.add_argument("count", metavar="N", type=int, help="0 ends the pool")
    rm = words.add_parser("rm", help="remove templates; clones that run go on")
    rm.add_argument("names", metavar="NAME", nargs="*", default=[])
    rm.add_argument("--all", action="store_true", help="every template of this home")


def main(args: argparse.Namespace) -> int:
    """Do the word."""
    from vmm import pool, templates

    home = paths.home()
    pool.sweep(home)
    if args.word == "create":
        return _create(args)
    if args.word == "ls":
        return _ls(args)
    if args.word == "pool":
        return _resize(home, args.name, args.count)
    names = args.names
    if args.word == "inspect":
        print(table.document(templates=[_facts(templates.load(home, name)) for name in names]))
        return 0
    if args.all:
        names = [one.name for one in reversed(templates.every(home))]  # who stands on another is younger
    elif not names:
        raise Usage("vmm template rm needs the name of a template", hint="vmm template ls lists them")
    return _rm(home, names)


def _rm(home: Path, names: list[str]) -> int:
    """Remove them; one that stays does not keep the others from it."""
    from vmm import templates

    failed = 0
    for name in names:
        try:
            templates.load(home, name)
            templates.remove(home, name)
        except Failure as error:
            sys.stderr.write(f"vmm template: {error.told()}\n")
            failed = max(failed, error.exit_status)
        else:
            print(name, flush=True)
    return failed


def _create(args: argparse.Namespace) -> int:
    from instances import frozen, registry
    from instances.kinds import MACHINE
    from instances.requests import RunRequest

    pool = _pool(args.pool)
    source = None
    with contextlib.suppress(NotFound, Usage):  # an image's name may be none that an instance can have
        source = registry.load(args.image)
    if source is not None:
        _refuse_words(args)
        print(frozen.capture(args.name, source, pool).name)
        return 0
    request = RunRequest(
        image=args.image,
        command=tuple(args.arguments),
        kind=MACHINE,
        memory_bytes=parse_bytes(args.memory, "memory size") if args.memory else None,
        cpus=args.cpus,
        network=args.network,
        boot=args.boot,
        driver=args.driver,
        accel=args.accel,
        cloud_init=args.cloud_init,
        ssh_keys=tuple(args.ssh_key),
    )
    print(frozen.create(args.name, request, pool).name)
    return 0


def _resize(home: Path, name: str, count: int) -> int:
    from instances import frozen

    frozen.keep_ready(name, _pool(count) if count else 0)
    print(name)
    return 0


def _pool(count: int | None) -> int:
    from vmm.pool import LARGEST

    if count is not None and not 1 <= count <= LARGEST:
        hint = "leave it out to keep none ready; vmm template pool NAME 0 ends a pool"
        raise Usage("cannot keep a pool of", str(count), f"it has 1 to {LARGEST} paused clones", hint)
    return count or 0


def _refuse_words(args: argparse.Namespace) -> None:
    """A machine that runs has its memory, processors and devices already."""
    words = ("arguments", "memory", "cpus", "network", "boot", "driver", "accel", "cloud_init", "ssh_key")
    given = [word for word in words if getattr(args, word)]
    if given:
        why = f"{args.image} is a machine that runs: it is frozen as it is"
        raise Usage(f"cannot use {given[0].replace('_', '-')}", why=why, hint="leave it out")


def _ls(args: argparse.Namespace) -> int:
    from vmm import templates

    found = templates.every(paths.home())
    if args.json:
        print(table.document(templates=[_facts(one) for one in found]))
    elif args.quiet:
        table.say("\n".join(one.name for one in found))
    else:
        images = _image_names()
        rows = [_row(one, images) for one in found]
        print(table.columns(["NAME", "IMAGE", "MEMORY", "CREATED", "MADE IN", "POOL", "STATE"], rows))
    return 0


def _image_names() -> dict[str, str]:
    """The first name of each image by the start of its digest, as templates remember it."""
    from instances import provision

    return {one.digest.removeprefix("sha256:")[:32]: one.name for one in reversed(provision.store().images())}


def _row(template: Template, images: dict[str, str]) -> list[str]:
    from vmm import templates

    facts = _facts(template)
    short = images.get(template.image_digest, template.image_digest[:12]).removesuffix(":latest")
    return [
        template.name,
        template.image or f"{short} (vmm run's own)",
        f"{format_bytes(facts['memory_held_bytes'])} of {format_bytes(template.memory_bytes)}",
        f"{table.ago(templates.now_unix_s() - template.created_unix_s)} ago",
        f"{template.took_s:.1f} s",
        _ready_of_wanted(facts["pool"]),
        templates.damage(template) or "ready",
    ]


def _ready_of_wanted(pool: dict[str, Any]) -> str:
    if not pool["wanted"]:
        return "-"
    return f"{pool['ready']} of {pool['wanted']}" + (" (see inspect)" if pool["trouble"] else "")


def _facts(template: Template) -> dict[str, Any]:
    from vmm import pool, templates

    return {
        **template._asdict(),
        "folder": str(template.folder),
        "memory": str(template.memory),
        "memory_held_bytes": _held(template.memory),
        "disk_held_bytes": sum(_held(path) for path in template.folder.iterdir()),
        "damage": templates.damage(template),
        "pool": pool.facts(template),
    }


def _held(path: Any) -> int:
    try:
        return int(path.stat().st_blocks * 512)
    except OSError:
        return 0
