"""Images that need no registry: `tiny` (busybox), `debian` and `loads` (from the host's own apt sources)."""

from __future__ import annotations

from collections.abc import Callable

from host.errors import NotFound
from images import packages
from images.store import Image, Store

Progress = Callable[[str], None]
NAMES = ("tiny", "debian", "loads")
_TINY_TAGS = ("", "latest", *packages.ARCHITECTURES)


def quiet(_line: str) -> None:
    """A progress callback that says nothing."""


def build(store: Store, base: str, progress: Progress = quiet) -> Image:
    """Make a base image (`tiny[:MACHINE]`, `loads`, `debian[:SUITE]`) and store it under that name.

    `progress` gets one line a step. NotFound for another name; HostUnfit where a program is missing.
    """
    name, _, suite = base.partition(":")
    if name == "tiny" and suite in _TINY_TAGS:
        from images import tiny

        return tiny.build(store, progress, suite if suite in packages.ARCHITECTURES else "")
    if base in ("loads", "loads:latest"):
        from images import loads

        return loads.build(store, progress)
    if name == "debian":
        from images import debian

        return debian.build(store, suite, progress)
    raise NotFound("no base image", base, hint="the bases are tiny, loads, debian and debian:SUITE")


def makes(name: str) -> bool:
    """Whether `build` knows how to make an image of this name, so that its first use may make it."""
    base, _, tag = name.partition(":")
    if base == "loads" and tag in ("", "latest"):
        return True
    return (base == "tiny" and tag in _TINY_TAGS) or (base == "debian" and not tag.startswith("sha256"))
