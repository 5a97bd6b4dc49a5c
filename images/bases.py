"""Images that need no registry: `tiny` (busybox) and `debian` (from the host's own apt sources)."""

from __future__ import annotations

from collections.abc import Callable

from host.errors import NotFound
from images.store import Image, Store

Progress = Callable[[str], None]
NAMES = ("tiny", "debian")


def quiet(_line: str) -> None:
    """A progress callback that says nothing."""


def build(store: Store, base: str, progress: Progress = quiet) -> Image:
    """Make the base image `tiny`, `debian` or `debian:SUITE` and store it under that name.

    `progress` gets one line a step. NotFound for another name; HostUnfit where a program is missing.
    """
    name, _, suite = base.partition(":")
    if name == "tiny" and suite in ("", "latest"):
        from images import tiny

        return tiny.build(store, progress)
    if name == "debian":
        from images import debian

        return debian.build(store, suite, progress)
    raise NotFound("no base image", base, hint="the bases are tiny, debian and debian:SUITE")


def makes(name: str) -> bool:
    """Whether `build` knows how to make an image of this name, so that its first use may make it."""
    base, _, tag = name.partition(":")
    return (base == "tiny" and tag in ("", "latest")) or (base == "debian" and not tag.startswith("sha256"))
