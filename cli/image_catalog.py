"""vmm image catalog: a user's own list of cloud images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from cli import image_build, table
from host import paths
from images.store import Store

_SCHEMA = (
    "List the images of your catalogue, or import some. FILE is YAML: `version: 1`, and `images:` with "
    "NAME: {url, checksum, description, architecture, raw}; the checksum is sha256:HEX, sha512:HEX, "
    "or the URL of a list."
)


def configure(subs: Any) -> None:
    """The flags of catalog."""
    line = "list the images of your catalogue, or import some"
    catalog = subs.add_parser("catalog", help=line, description=_SCHEMA, allow_abbrev=False)
    catalog.set_defaults(work=_catalog)
    catalog.add_argument("names", nargs="*", metavar="NAME", help="import these; without one: list all")
    catalog.add_argument("-f", "--file", metavar="FILE", help="the catalogue ($VMM_HOME/catalog.yaml)")
    catalog.add_argument("-q", "--quiet", action="store_true", help="no progress")
    catalog.add_argument("--json", action="store_true", help="one JSON document")


def _catalog(args: argparse.Namespace) -> int:
    from images import catalog as catalogue

    listed = catalogue.load(Path(args.file) if args.file else paths.home() / "catalog.yaml")
    if args.names:
        return _import([catalogue.find(listed, name) for name in args.names], args.quiet)
    if args.json:
        print(table.document(images=[one._asdict() for one in listed]))
    else:
        rows = [[one.name, one.architecture, one.description, one.url] for one in listed]
        print(table.columns(["NAME", "ARCHITECTURE", "DESCRIPTION", "URL"], rows))
    return 0


def _import(wanted: list[Any], quiet: bool) -> int:
    from images import importing

    say = (lambda _line: None) if quiet else image_build.progress()
    for one in wanted:
        print(importing.run(Store(paths.home()), one.wish(), say).digest)
    return 0
