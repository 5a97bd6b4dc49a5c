"""Volumes of a new container as docker has them: one for each VOLUME of the image, filled from the image."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from instances import kinds, names, volumes
from instances.requests import Volume

if TYPE_CHECKING:
    from images.config import ImageConfig
    from instances.registry import Instance
    from instances.requests import RunRequest


def with_anonymous_volumes(request: RunRequest, config: ImageConfig, make: bool) -> RunRequest:
    """The request with a new volume for each `-v /path` and each VOLUME of the image left uncovered."""
    covered = {one.target for one in request.volumes} | {text.partition(":")[0] for text in request.tmpfs}
    wanted = (*request.volumes, *(Volume("", path) for path in config.volumes if path not in covered))
    return request._replace(volumes=tuple(one if one.source else _named(one, make) for one in wanted))


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
    for mount in kinds.backend(instance).spec.mounts:
        if mount.kind == "volume" and not os.listdir(mount.source):
            kinds.optional(instance, "copy_volume")(mount.target, mount.source)
