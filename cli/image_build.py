"""vmm image build: from a Dockerfile, or a base that needs no registry."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from host import paths
from host.errors import Usage


def configure(subs: Any) -> None:
    """The flags of build."""
    line = "make an image: of a Dockerfile, or of a base (tiny, debian[:SUITE])"
    build = subs.add_parser("build", help=line, description=line, allow_abbrev=False)
    build.set_defaults(work=_build)
    add = build.add_argument
    add("context", metavar="DIR", nargs="?", help="what COPY copies from")
    add("-t", "--tag", metavar="NAME[:TAG]", action="append", default=[], help="the image's name; repeatable")
    add("-f", "--file", metavar="FILE", help="the Dockerfile, else DIR/Dockerfile; - reads it from stdin")
    add("--build-arg", metavar="K[=V]", action="append", default=[], help="a value for an ARG")
    add("--target", metavar="STAGE", default="", help="build up to this stage")
    add("--no-cache", action="store_true", help="take nothing from former builds")
    add("--label", metavar="K=V", action="append", default=[], help="one more label")
    add("--secret", metavar="id=ID,src=FILE", action="append", default=[], help="for RUN --mount=type=secret")
    add("--network", choices=("default", "none", "host"), default="default", help="the network of RUN")
    add("--base", metavar="BASE", help="tiny or debian[:SUITE]; needs no registry")
    add("-q", "--quiet", action="store_true", help="the digest only")


def _build(args: argparse.Namespace) -> int:
    if args.base:
        from images import bases
        from images.store import Store

        if args.context or args.file:
            raise Usage("cannot build", why="--base needs no directory and no Dockerfile")
        store = Store(paths.home())
        image = bases.build(store, args.base, _quiet if args.quiet else progress())
        for name in args.tag:
            store.tag(image.digest, name)
    else:
        image = _build_dockerfile(args)
    print(image.digest)
    return 0


def _build_dockerfile(args: argparse.Namespace) -> Any:
    from images import reference
    from images.build import Request, check_context
    from instances import build

    if not args.context:
        raise Usage("cannot build", why="no directory is said", hint="vmm image build -t NAME DIR")
    for name in args.tag:
        reference.parse(name)
    with contextlib.ExitStack() as held:
        request = Request(
            context=check_context(Path(args.context)),
            names=tuple(args.tag),
            dockerfile=_dockerfile(args.file, held),
            arguments=_arguments(args.build_arg),
            target=args.target,
            no_cache=args.no_cache,
            labels=dict(_pair(text, "label") for text in args.label),
            secrets=dict(_secret(text) for text in args.secret),
            network=args.network,
            output=_output(args.quiet, held),
        )
        return build.build(request, _quiet if args.quiet else progress())


def _output(quiet: bool, held: contextlib.ExitStack) -> int:
    """Where commands write: stderr, or nowhere."""
    if not quiet:
        return 2
    fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    held.callback(os.close, fd)
    return fd


def _dockerfile(word: str | None, held: contextlib.ExitStack) -> Path | None:
    if word != "-":
        return Path(word) if word else None
    folder = held.enter_context(tempfile.TemporaryDirectory())
    path = Path(folder, "Dockerfile")
    path.write_bytes(sys.stdin.buffer.read())
    return path


def _arguments(words: list[str]) -> dict[str, str]:
    """K=V as it is, a bare K from the environment if it has one."""
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if equals:
            found[name] = value
        elif name in os.environ:
            found[name] = os.environ[name]
    return found


def _pair(text: str, what: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise Usage(f"cannot read the {what}", repr(text), "write it as K=V")
    return name, value


def _secret(text: str) -> tuple[str, Path]:
    told = dict(_pair(part, "secret") for part in text.split(","))
    source = told.get("src") or told.get("source") or ""
    if not told.get("id") or not Path(source).is_file():
        raise Usage(
            "cannot read the secret", repr(text), "write it as id=ID,src=FILE, and FILE must be there"
        )
    return told["id"], Path(source)


def _quiet(_line: str) -> None:
    pass


def progress() -> Callable[[str], None]:
    """Print each step with the seconds since the first, to stderr."""
    began = time.monotonic()

    def say(line: str) -> None:
        sys.stderr.write(f"[{time.monotonic() - began:5.1f} s] {line}\n")
        sys.stderr.flush()

    return say
