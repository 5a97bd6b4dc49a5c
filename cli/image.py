"""vmm image: the images that both kinds of instance are made of."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

from cli import table
from host import paths
from host.errors import InUse, Usage
from host.sizes import format_bytes
from images.store import Store

Parsers = Any


def configure(parser: argparse.ArgumentParser) -> None:
    """The subcommands of image and their flags."""
    subs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    _configure_looking(subs)
    _configure_changing(subs)
    from cli import image_build, image_catalog, image_convert, image_move, image_registry

    image_build.configure(subs)
    image_move.configure(subs)
    image_convert.configure(subs)
    image_registry.configure(subs)
    image_catalog.configure(subs)


def _verb(subs: Parsers, name: str, work: Callable[[argparse.Namespace], int], line: str) -> Any:
    parser = subs.add_parser(
        name, help=line, description=line[0].upper() + line[1:] + ".", allow_abbrev=False
    )
    parser.set_defaults(work=work)
    return parser


def _configure_looking(subs: Parsers) -> None:
    ls = _verb(subs, "ls", _ls, "list images")
    ls.add_argument("-a", "--all", action="store_true", help="those that lost their name, too")
    ls.add_argument("-q", "--quiet", action="store_true", help="digests only")
    ls.add_argument("--json", action="store_true", help="one JSON document")
    ls.add_argument("--format", metavar="FORM", help="a line for each, for example '{name} {unique_bytes}'")
    inspect = _verb(subs, "inspect", _inspect, "all that is known of images, or of a disk file")
    inspect.add_argument("names", nargs="+", metavar="IMAGE|FILE")
    history = _verb(subs, "history", _history, "the steps that made an image")
    history.add_argument("name", metavar="IMAGE")
    history.add_argument("--json", action="store_true", help="one JSON document")
    verify = _verb(subs, "verify", _verify, "read every blob and check its digest")
    verify.add_argument("--json", action="store_true", help="one JSON document")


def _configure_changing(subs: Parsers) -> None:
    tag = _verb(subs, "tag", _tag, "give an image one more name")
    tag.add_argument("source", metavar="IMAGE")
    tag.add_argument("name", metavar="NAME[:TAG]")
    rm = _verb(subs, "rm", _rm, "remove names, and images with their last name")
    rm.add_argument("names", nargs="+", metavar="IMAGE")
    rm.add_argument("-f", "--force", action="store_true", help="also what instances use: their files stay")
    prune = _verb(subs, "prune", _prune, "remove what nothing needs")
    prune.add_argument("-a", "--all", action="store_true", help="also images that no instance uses")
    prune.add_argument("--json", action="store_true", help="one JSON document")


def main(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    return int(args.work(args))


def users(store: Store) -> dict[str, list[str]]:
    """The instances and templates that stand on each image, by its digest."""
    from instances import space

    return space.image_users(store)


def _ls(args: argparse.Namespace) -> int:
    store = Store(paths.home())
    shown = [facts for facts in _listing(store) if args.all or facts["name"]]
    if args.json:
        print(table.document(images=shown))
    elif args.quiet:
        table.say("\n".join(dict.fromkeys(one["digest"] for one in shown)))
    elif args.format:
        table.say("\n".join(table.formed(args.format, one) for one in shown))
    else:
        print(_columns(shown))
    return 0


def _listing(store: Store) -> list[dict[str, Any]]:
    from images import space

    sharers, used = space.sharing(store), users(store)
    rows = [_facts(store, entry, sharers, used) for entry in store.entries()]
    return sorted(rows, key=lambda row: (not row["name"], row["name"], row["digest"]))


def _facts(store: Store, entry: dict[str, Any], sharers: Any, used: dict[str, list[str]]) -> dict[str, Any]:
    from images import space

    image = store.image(entry)
    room, document = space.usage(store, image, sharers), store.document(image.digest)
    return {
        "name": store.name_of(entry),
        "digest": image.digest,
        "created": document.get("created") or "",
        "architecture": image.config.architecture,
        "layers": len(image.layers),
        "size_bytes": room.shared_bytes + room.unique_bytes,
        "shared_bytes": room.shared_bytes,
        "unique_bytes": room.unique_bytes,
        "blob_bytes": room.blob_bytes,
        "disk_bytes": room.disk_bytes,
        "instances": used.get(image.digest, []),
    }


def _columns(shown: list[dict[str, Any]]) -> str:
    rows = [
        [
            one["name"] or "<none>",
            short(one["digest"]),
            _age(one["created"]),
            str(one["layers"]),
            *(format_bytes(one[key]) for key in ("size_bytes", "shared_bytes", "unique_bytes")),
            str(len(one["instances"])),
        ]
        for one in shown
    ]
    return table.columns(
        ["NAME", "DIGEST", "CREATED", "LAYERS", "SIZE", "SHARED", "UNIQUE", "INSTANCES"], rows
    )


def short(digest: str) -> str:
    """The first 12 digits of a digest."""
    return digest.removeprefix("sha256:")[:12]


def _age(created: str) -> str:
    import calendar

    try:
        then = calendar.timegm(time.strptime(created[:19], "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return ""
    return "always the same" if then == 0 else table.ago(time.time() - then) + " ago"


def _inspect(args: argparse.Namespace) -> int:
    store = Store(paths.home())
    print(table.document(images=[_told(store, name) for name in args.names]))
    return 0


def _told(store: Store, name: str) -> dict[str, Any]:
    import os

    from images import space

    if "/" in name and os.path.isfile(name):
        return _told_disk(name)
    entry = store.descriptor(name)
    image = store.image(entry, name)
    facts = _facts(store, entry, space.sharing(store), users(store))
    stack = [
        {"digest": one.digest, "size_bytes": one.size, "diff_id": one.diff_id, "chain_id": one.chain_id}
        for one in store.stack(image.digest)
    ]
    return {
        **facts,
        "names": store.names(image.digest),
        "stack": stack,
        "config": store.document(image.digest),
    }


def _told_disk(name: str) -> dict[str, Any]:
    from pathlib import Path

    from images import disks

    disk = disks.inspect(Path(name))
    return {
        "file": str(disk.path),
        "format": disk.disk_format,
        "virtual_bytes": disk.virtual_bytes,
        "allocated_bytes": disk.allocated_bytes,
        "apparent_bytes": disk.apparent_bytes,
        "backing": [str(path) for path in disk.backing],
    }


def _history(args: argparse.Namespace) -> int:
    from images import history

    steps = history.of(Store(paths.home()), args.name)
    if args.json:
        print(table.document(history=steps))
        return 0
    rows = [
        [
            short(step["digest"]) if step["digest"] else "",
            _age(step["created"]),
            format_bytes(step["size_bytes"]) if step["digest"] else "0 B",
            step["created_by"].replace("\n", " ")[:80],
        ]
        for step in reversed(steps)
    ]
    print(table.columns(["LAYER", "CREATED", "SIZE", "STEP"], rows))
    return 0


def _verify(args: argparse.Namespace) -> int:
    from images import space

    store = Store(paths.home())
    troubles = list(space.verify(store))
    if args.json:
        print(table.document(sound=not troubles, troubles=troubles))
    else:
        table.say("\n".join(troubles))
        print(f"{len(store.entries())} images: " + ("not sound" if troubles else "sound"))
    return 1 if troubles else 0


def _tag(args: argparse.Namespace) -> int:
    store = Store(paths.home())
    from images import reference

    if reference.parse(args.name).digest:
        raise Usage("cannot tag", args.name, "a name with a digest names one content only")
    store.tag(args.source, args.name)
    return 0


def _rm(args: argparse.Namespace) -> int:
    from images import prune

    store = Store(paths.home())
    for name in args.names:
        entry = store.descriptor(name)
        digest = entry["digest"]
        by = users(store).get(digest, [])
        last = len(store.names(digest)) <= 1 or store.name_of(entry) == ""
        if by and last and not args.force:
            from vmm.templates import removals

            raise InUse("cannot remove the image", name, f"in use by {', '.join(by)}", removals(by))
        store.untag(name, keep=bool(by))
        print(name)
    prune.collect(store)
    return 0


def _prune(args: argparse.Namespace) -> int:
    from images import prune

    store = Store(paths.home())
    freed = prune.prune(store, users(store), everything=args.all)
    if args.json:
        print(
            table.document(
                images=freed.images, layers=freed.layers, blobs=freed.blobs, disks=freed.disks,
                half_made=freed.half_made, freed_bytes=freed.freed_bytes,
            )
        )  # fmt: skip
        return 0
    table.say("\n".join(freed.images))
    print(f"{format_bytes(freed.freed_bytes)} freed", file=sys.stderr)
    return 0
