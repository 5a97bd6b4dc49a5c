"""vmm image save, load, export, import: images as files."""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from cli import image_build
from host import paths
from host.errors import NotFound, Usage
from images.store import Store


def configure(subs: Any) -> None:
    """The flags of the four."""
    _save(subs)
    _load(subs)
    _export(subs)
    _import(subs)


def _verb(subs: Any, name: str, work: Any, line: str) -> Any:
    parser = subs.add_parser(
        name, help=line, description=line[0].upper() + line[1:] + ".", allow_abbrev=False
    )
    parser.set_defaults(work=work)
    return parser


def _save(subs: Any) -> None:
    save = _verb(subs, "save", save_images, "write images with their names and layers as one archive")
    save.add_argument("names", nargs="+", metavar="IMAGE")
    save.add_argument("-o", "--output", metavar="FILE", help="else stdout")
    save.add_argument(
        "--format", choices=("docker", "oci"), default="docker", help="docker-archive or oci-archive"
    )


def _load(subs: Any) -> None:
    load = _verb(subs, "load", load_images, "store the images of an archive (docker-archive or oci-archive)")
    load.add_argument("-i", "--input", metavar="FILE", help="else stdin")
    load.add_argument("-q", "--quiet", action="store_true", help="no progress")


def _export(subs: Any) -> None:
    export = _verb(subs, "export", export_image, "write the root file system of an image as one tar")
    export.add_argument("name", metavar="IMAGE")
    export.add_argument("-o", "--output", metavar="FILE", help="else stdout")


def _import(subs: Any) -> None:
    line = "make an image of a root file system in a tar, or of a disk (qcow2, vmdk, vdi, vpc, vhdx, raw)"
    into = _verb(subs, "import", import_image, line)
    into.add_argument("source", metavar="URL|FILE|-")
    into.add_argument("name", metavar="NAME[:TAG]")
    into.add_argument(
        "-c", "--change", metavar="LINE", action="append", default=[], help="as in a Dockerfile"
    )
    into.add_argument("-m", "--message", default="", help="a comment for the history")
    into.add_argument(
        "--checksum", metavar="sha256:HEX|URL", help="what the download must be; else it is refused"
    )
    into.add_argument("--raw", action="store_true", help="the file is a raw disk: its content cannot tell")
    into.add_argument("--kernel", metavar="FILE", help="with a disk that does not boot by itself")
    into.add_argument("--ramdisk", metavar="FILE", help="with --kernel")
    into.add_argument("--append", default="", metavar="WORDS", help="with --kernel: else root=/dev/vda rw")
    into.add_argument(
        "--arch", default="", metavar="ARCH", help="a disk's architecture, as OCI says it (arm64)"
    )
    into.add_argument("-q", "--quiet", action="store_true", help="no progress")


def save_images(args: argparse.Namespace) -> int:
    """vmm image save."""
    from images import archives

    store = Store(paths.home())
    for name in args.names:
        store.resolve(name)
    with writing(args.output) as sink:
        archives.save(store, args.names, sink, args.format)
    return 0


@contextlib.contextmanager
def writing(path: str | None) -> Iterator[IO[bytes]]:
    """The file, which appears whole or not at all, or stdout if it is no terminal."""
    if path is None:
        if sys.stdout.isatty():
            raise Usage("cannot write an archive to a terminal", hint="-o FILE, or redirect it")
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    target = Path(path)
    half = target.with_name(f".{target.name}.half")
    try:
        with half.open("wb") as sink:
            yield sink
        half.rename(target)
    finally:
        half.unlink(missing_ok=True)


def load_images(args: argparse.Namespace) -> int:
    """vmm image load."""
    from images import archives

    say = (lambda _line: None) if args.quiet else image_build.progress()
    with _readable(args.input) as path:
        for image in archives.load(Store(paths.home()), path, say):
            print(f"{image.name} {image.digest}")
    return 0


@contextlib.contextmanager
def _readable(word: str | None) -> Iterator[Path]:
    """The file, or a copy of stdin: archives are read here and there, not once through."""
    if word not in (None, "-"):
        path = Path(str(word))
        if not path.is_file():
            raise NotFound("no file", str(path))
        yield path
        return
    with tempfile.NamedTemporaryFile(dir=paths.ensure(paths.home())) as spool:
        while chunk := sys.stdin.buffer.read(1 << 20):
            spool.write(chunk)
        spool.flush()
        yield Path(spool.name)


def export_image(args: argparse.Namespace) -> int:
    """vmm image export."""
    from images import rootfs

    store = Store(paths.home())
    trees = store.lower_dirs(store.resolve(args.name))
    with writing(args.output) as sink:
        rootfs.export(trees, sink)
    return 0


def import_image(args: argparse.Namespace) -> int:
    """vmm image import."""
    from images import importing

    say = (lambda _line: None) if args.quiet else image_build.progress()
    wish = importing.Wish(
        source=args.source,
        name=args.name,
        changes=tuple(args.change),
        message=args.message,
        checksum=args.checksum or "",
        raw=args.raw,
        kernel=_file(args.kernel),
        ramdisk=_file(args.ramdisk),
        append=args.append,
        architecture=args.arch,
    )
    if not args.kernel and (args.ramdisk or args.append):
        raise Usage("cannot import", why="--ramdisk and --append need --kernel")
    with _readable("-") if args.source == "-" else contextlib.nullcontext() as spooled:
        print(importing.run(Store(paths.home()), wish, say, spooled).digest)
    return 0


def _file(word: str | None) -> Path | None:
    if word is not None and not Path(word).is_file():
        raise NotFound("no file", word)
    return Path(word) if word else None
