"""A user's own list of cloud images: names for addresses, each with the checksum that its download must have.

version: 1
images:
  bookworm:
    url: https://HOST/debian-12-genericcloud-amd64.qcow2
    checksum: https://HOST/SHA512SUMS       # or sha256:HEX, sha512:HEX
    description: Debian 12                  # the rest may be left out
    architecture: amd64
    raw: false                              # a raw disk, whose content cannot tell what it is
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from host.errors import BadData, NotFound, Usage
from images import reference
from images.config import host_architecture
from images.importing import Wish

_WORDS = {"url": str, "checksum": str, "description": str, "architecture": str, "raw": bool}
_CHECKSUM = re.compile(r"https?://\S+|sha256:[0-9a-fA-F]{64}|sha512:[0-9a-fA-F]{128}")


class Listed(NamedTuple):
    """One image of a catalogue."""

    name: str
    url: str
    checksum: str
    description: str = ""
    architecture: str = host_architecture()
    raw: bool = False

    def wish(self, name: str = "") -> Wish:
        """What to import, as its own name or another."""
        return Wish(
            self.url, name or self.name, checksum=self.checksum, raw=self.raw, architecture=self.architecture
        )


def load(path: Path) -> list[Listed]:
    """The images of a catalogue in their order; BadData with the place of what is wrong."""
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFound("no catalogue", str(path), hint="write one: vmm image catalog --help") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadData("cannot read the catalogue", str(path), str(error).replace("\n", " ")) from None
    if not isinstance(document, dict) or document.get("version") != 1:
        raise _bad(path, "", "it does not begin with `version: 1`")
    if unknown := set(document) - {"version", "images"}:
        raise _bad(path, "", f"unknown key {min(map(str, unknown))!r}")
    images = document.get("images")
    if not isinstance(images, dict):
        raise _bad(path, "", "it has no `images:` with names below")
    return [_listed(path, name, told) for name, told in images.items()]


def find(images: list[Listed], name: str) -> Listed:
    """The image of this name."""
    for one in images:
        if one.name == name:
            return one
    known = ", ".join(one.name for one in images)
    raise NotFound("not in the catalogue", name, f"it has {known or 'nothing'}")


def _listed(path: Path, name: Any, told: Any) -> Listed:
    if not isinstance(name, str) or not isinstance(told, dict):
        raise _bad(path, str(name), "write NAME: {url: ..., checksum: ...}")
    try:
        reference.parse(name)
    except Usage as error:
        raise _bad(path, name, error.why) from None
    for key, value in told.items():
        kind = _WORDS.get(key)
        if kind is None:
            raise _bad(path, name, f"unknown key {key!r}; known are {', '.join(_WORDS)}")
        if not isinstance(value, kind):
            raise _bad(path, f"{name}.{key}", f"{value!r} is no {kind.__name__}")
    if not re.match(r"https?://\S+$", told.get("url", "")):
        raise _bad(path, f"{name}.url", "an address that begins with https:// or http:// is needed")
    if not _CHECKSUM.fullmatch(told.get("checksum", "")):
        raise _bad(path, f"{name}.checksum", "sha256:HEX, sha512:HEX or the address of a list is needed")
    return Listed(name=name, **told)


def _bad(path: Path, where: str, why: str) -> BadData:
    return BadData("cannot use the catalogue", f"{path}, images.{where}" if where else str(path), why)
