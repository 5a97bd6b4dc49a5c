"""vmm image convert: a disk or an image as a disk of another format."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from host import paths
from host.errors import InUse, Usage
from host.sizes import parse_bytes
from images.store import Store


def configure(subs: Any) -> None:
    """The flags of convert."""
    line = "write a disk, or an image as a disk, in another format"
    convert = subs.add_parser("convert", help=line, description=line, allow_abbrev=False)
    convert.set_defaults(work=_convert)
    convert.add_argument("source", metavar="IMAGE|FILE", help="a word with a / is a file, if there is one")
    convert.add_argument("--format", required=True, metavar="F", help="raw qcow2 vmdk vdi vpc (vhd) vhdx")
    convert.add_argument("-o", "--output", required=True, metavar="FILE")
    convert.add_argument("--bootable", action="store_true", help="boots on its own, by BIOS and by UEFI")
    convert.add_argument("--size", metavar="SIZE", help="the whole disk's, with --bootable")
    convert.add_argument("--raw", action="store_true", help="FILE is a raw disk: its content cannot tell")
    convert.add_argument("-f", "--force", action="store_true", help="replace FILE")


def _convert(args: argparse.Namespace) -> int:
    from images import disks

    target = Path(args.output)
    form = "vpc" if args.format == "vhd" else args.format
    disks.check_format(form)
    if target.exists() and not args.force:
        raise InUse("cannot write the disk", str(target), "the file is there already", "-f replaces it")
    if args.size and not args.bootable:
        raise Usage("cannot use --size", why="only --bootable makes a disk of another size")
    half = target.with_name(f".{target.name}.half")
    try:
        _write(args, half, form)
        half.rename(target)
    finally:
        half.unlink(missing_ok=True)
    return 0


def _write(args: argparse.Namespace, half: Path, form: str) -> None:
    from images import bootable, disks

    source = Path(args.source)
    if "/" in args.source and source.is_file():
        if args.bootable:
            raise Usage("cannot make the file bootable", args.source, "it is a disk already", "name an image")
        disks.convert(source, half, form, source_format="raw" if args.raw else "")
        return
    store = Store(paths.home())
    image = store.resolve(args.source)
    if args.bootable:
        bootable.make(store, image, half, form, parse_bytes(args.size) if args.size else None)
    else:
        disks.convert(disks.base(store, image), half, form, source_format=disks.base_format(image))
