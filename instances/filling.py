"""Volumes of a new container as docker has them: one for each VOLUME of the image, filled from the image."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from host.errors import Usage
from instances import kinds, names, volumes
from instances.requests import Volume

if TYPE_CHECKING:
    from images.config import ImageConfig
    from instances.registry import Instance
    from instances.requests import RunRequest


def with_anonymous_volumes(request: RunRequest, config: ImageConfig, make: bool) -> RunRequest:
    """The request with the volumes of others, and a new one for each `-v /path` and VOLUME left uncovered."""
    covered = {one.target for one in request.volumes} | {text.partition(":")[0] for text in request.tmpfs}
    wanted = list(request.volumes)
    for volume in (*_of_others(request.volumes_from), *(Volume("", path) for path in config.volumes)):
        if volume.target not in covered:
            covered.add(volume.target)
            wanted.append(volume)
    return request._replace(volumes=tuple(one if one.source else _named(one, make) for one in wanted))


def _of_others(words: tuple[str, ...]) -> Iterator[Volume]:
    """The folders and volumes of other containers, as --volumes-from NAME[:ro] asks for them."""
    from containers.spec import ContainerSpec
    from instances import registry

    for text in words:
        name, _, mode = text.partition(":")
        neighbour = registry.find(name)
        if neighbour.kind != kinds.CONTAINER or mode not in ("", "ro", "rw"):
            hint = "name a container, as in --volumes-from data:ro"
            raise Usage("cannot take the volumes of", repr(text), hint=hint)
        for one in ContainerSpec.from_record(neighbour.spec).mounts:
            if one.kind in ("bind", "volume"):
                source = Path(one.source).parent.name if one.kind == "volume" else one.source
                read_only = one.read_only or mode == "ro"
                yield Volume(source, one.target, read_only, False, one.propagation)


def _named(volume: Volume, make: bool) -> Volume:
    if not make:
        return volume._replace(source="ANONYMOUS")
    name = names.new_id()[:32]
    volumes.ensure(name, anonymous=True)
    return volume._replace(source=name)


def fill(instance: Instance) -> None:
    """Copy what the image has at a volume's place into the volume, while that is empty.

    An ordinary user may not mount the image's layers, and gets the volume as it is.
    """
    if not instance.volumes or os.geteuid() != 0:
        return
    from containers.spec import ContainerSpec

    for mount in ContainerSpec.from_record(instance.spec).mounts:
        if mount.kind == "volume" and not os.listdir(mount.source):
            kinds.optional(instance, "copy_volume")(mount.target, mount.source)
