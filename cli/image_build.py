"""vmm image build: from a Dockerfile, or a base that needs no registry."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

from host import paths
from host.errors import Usage


def configure(subs: Any) -> None:
    """The flags of build."""
    line = "make an image: of a Dockerfile, or of a base (tiny, debian[:SUITE])"
    build = subs.add_parser("build", help=line, description=line, allow_abbrev=False)
    build.set_defaults(work=_build)
    build.add_argument("--base", metavar="BASE", help="tiny or debian[:SUITE]; needs no registry")
    build.add_argument("-q", "--quiet", action="store_true", help="the digest only")


def _build(args: argparse.Namespace) -> int:
    if not args.base:
        raise Usage("cannot build", why="no --base is said", hint="vmm image build --base tiny")
    from images import bases
    from images.store import Store

    image = bases.build(Store(paths.home()), args.base, _quiet if args.quiet else progress())
    print(image.digest)
    return 0


def _quiet(_line: str) -> None:
    pass


def progress() -> Callable[[str], None]:
    """Print each step with the seconds since the first, to stderr."""
    began = time.monotonic()

    def say(line: str) -> None:
        sys.stderr.write(f"[{time.monotonic() - began:5.1f} s] {line}\n")
        sys.stderr.flush()

    return say
