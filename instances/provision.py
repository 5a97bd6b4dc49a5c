"""Image on demand: what is asked for is in the store, or is made (tiny, debian), or pulled."""

from __future__ import annotations

import sys

from host import paths
from host.errors import Failure, NotFound
from host.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from images.store import Image, Store


def store() -> Store:
    """The image store of this home."""
    from images.store import Store

    return Store(paths.home())


def image(name: str, machine: str | None = None) -> Image:
    """The image of that name; made or pulled on its first use, with progress on stderr.

    `machine` (uname -m) is the architecture asked for. Raises NotFound where neither can be done.
    """
    here = store()
    name = _for_machine(name, machine)
    try:
        return here.resolve(name)
    except NotFound:
        from images import bases
        from vmm import admission

        admission.let_go()  # this takes minutes, and others may start meanwhile
        if bases.makes(name):
            said(f"{name} is not here yet: making it")
            return bases.build(here, name, said)
        return _pulled(here, name)


def _for_machine(name: str, machine: str | None) -> str:
    """`tiny:aarch64` of `tiny`: the base image of another architecture has a name of its own."""
    import os

    foreign = machine not in (None, os.uname().machine)
    return f"tiny:{machine}" if foreign and name in ("tiny", "tiny:latest") else name


def image_or_outline(name: str, machine: str | None = None) -> Image:
    """The image for a plan: one that is not here yet is shown by its name, and nothing is made."""
    name = _for_machine(name, machine)
    try:
        return store().resolve(name)
    except NotFound as missing:
        from images import bases, reference
        from images.config import ImageConfig
        from images.store import Image

        if not bases.makes(name) and not reference.parse(name).host:
            raise _unknown(name) from missing
        config = ImageConfig(cmd=("/bin/sh",))
        if machine == "aarch64":
            config = config._replace(architecture="arm64")
        return Image(name, "", config, ("LAYERS",))


def lower_dirs(image: Image) -> tuple[str, ...]:
    """The unpacked layers of an image, top first; of one that is not here yet, where they would be."""
    if not image.digest:
        return (str(paths.home() / "images" / "layers" / f"LAYERS-OF-{image.name}"),)
    return tuple(str(path) for path in store().lower_dirs(image))


def _unknown(name: str) -> NotFound:
    # A bare name would have to mean somebody's registry; we have no default one, on purpose.
    why = "it is not in the store, and the name says no registry"
    hint = "vmm image ls lists what is here; tiny and debian are made on first use; HOST/NAME pulls"
    return NotFound("no image", repr(name), why, hint)


def _pulled(here: Store, name: str) -> Image:
    from images import reference

    if not reference.parse(name).host:
        raise _unknown(name) from None
    from images import pull

    try:
        said(f"{name} is not here yet: pulling it")
        pulled: Image = pull.pull(here, name, said)
    except Failure as error:
        error.hint = error.hint or "vmm image ls lists what is here"
        raise
    return pulled


def said(line: str) -> None:
    """One line of progress, to people only: stdout belongs to the command."""
    sys.stderr.write(f"vmm: {line}\n")
