"""vmm image convert: a disk or an image as a disk of another format."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from host import paths
from host.errors import Failure, InUse, Usage
from host.sizes import parse_bytes
from images.store import Store


def configure(subs: Any) -> None:
    """The flags of convert."""
    line = "write a disk, or an image as a disk, in another format"
    convert = subs.add_parser("convert", help=line, description=line, allow_abbrev=False)
    convert.set_defaults(work=_convert)
    convert.add_argument(
        "source", metavar="IMAGE|FILE", help="the image of that name, else the file; ./NAME is a file"
    )
    convert.add_argument("--format", required=True, metavar="F", help="raw qcow2 vmdk vdi vpc (vhd) vhdx")
    convert.add_argument("-o", "--output", metavar="FILE", help="else NAME.F in this folder")
    convert.add_argument("--bootable", action="store_true", help="boots on its own, by BIOS and by UEFI")
    convert.add_argument("--size", metavar="SIZE", help="the whole disk's, with --bootable")
    convert.add_argument("--raw", action="store_true", help="FILE is a raw disk: its content cannot tell")
    convert.add_argument("-f", "--force", action="store_true", help="replace FILE")


def _convert(args: argparse.Namespace) -> int:
    from images import disks

    target = Path(args.output or _name(args.source, args.format))
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


def _name(source: str, form: str) -> str:
    """app.vmdk for localhost:5000/app, app-1.vmdk for app:1, disk.vmdk for ./disk.qcow2."""
    last = source.partition("@")[0].rpartition("/")[2]
    stem = Path(last).stem if Path(source).is_file() else last.removesuffix(":latest").replace(":", "-")
    return f"{stem}.{form}"


def _is_image(store: Store, word: str) -> bool:
    try:
        return bool(store.descriptor(word))
    except Failure:
        return False


def _write(args: argparse.Namespace, half: Path, form: str) -> None:
    from images import bootable, disks

    source, store = Path(args.source), Store(paths.home())
    if source.is_file() and ("/" in args.source or not _is_image(store, args.source)):
        if args.bootable:
            raise Usage("cannot make the file bootable", args.source, "it is a disk already", "name an image")
        disks.convert(source, half, form, source_format="raw" if args.raw else "")
        return
    image = store.resolve(args.source)
    if args.bootable:
        bootable.make(store, image, half, form, parse_bytes(args.size) if args.size else None)
    else:
        disks.convert(disks.base(store, image), half, form, source_format=disks.base_format(image))
