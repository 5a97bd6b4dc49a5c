"""Named volumes: directories of ours that outlive the instances that use them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from host import paths, records
from host.errors import InUse, NotFound
from host.typing import NamedTuple
from instances import names, registry

_RECORD = "volume.json"


class Volume(NamedTuple):
    """A volume; `users` are the instances whose record names it. An anonymous one goes with its instance."""

    name: str
    created_unix_s: float
    labels: dict[str, str]
    data: Path
    users: tuple[str, ...]
    anonymous: bool = False


def _base() -> Path:
    return paths.home() / "volumes"


def data_dir(name: str) -> Path:
    """Where a volume's files are; makes nothing."""
    return _base() / names.check(name) / "data"


def ensure(name: str, labels: dict[str, str] | None = None, anonymous: bool = False) -> bool:
    """Make the volume unless it is there; whether it was made now."""
    folder = data_dir(name).parent
    with records.lock(_base() / ".lock"):
        if (folder / _RECORD).exists():
            return False
        paths.ensure(folder / "data")
        record = {"schema_version": 1, "created_unix_s": registry.now_unix_s(), "labels": labels or {}}
        if anonymous:
            record["anonymous"] = True
        records.write(folder / _RECORD, record)
    return True


def find(name: str) -> Volume:
    """The volume of that name; raises NotFound."""
    folder = data_dir(name).parent
    try:
        record = records.read(folder / _RECORD)
    except FileNotFoundError:
        raise NotFound("no volume", repr(name), hint="vmm volume ls lists them") from None
    users = tuple(one.name for one in registry.every() if name in used_by(one))
    anonymous = record.get("anonymous", False)
    return Volume(name, record["created_unix_s"], record["labels"], folder / "data", users, anonymous)


def every() -> list[Volume]:
    """All volumes by name."""
    try:
        found = sorted(entry.name for entry in os.scandir(_base()) if entry.is_dir())
    except FileNotFoundError:
        return []
    volumes = []
    for name in found:
        with contextlib.suppress(NotFound):
            volumes.append(find(name))
    return volumes


def used_by(instance: registry.Instance) -> set[str]:
    """The names of the volumes that an instance's record names."""
    return set(instance.volumes)


def remove(name: str) -> None:
    """Delete a volume and its files; raises InUse while an instance names it."""
    volume = find(name)
    if volume.users:
        hint = f"vmm rm {' '.join(volume.users)} first"
        raise InUse("cannot remove the volume", repr(name), f"used by {', '.join(volume.users)}", hint)
    folder = volume.data.parent
    with records.lock(_base() / ".lock"):
        # The record goes last: a kill in the middle leaves a volume that can be removed again.
        registry.remove_tree(folder / "data")
        registry.remove_tree(folder)


def remove_anonymous(instance: registry.Instance) -> None:
    """Delete the anonymous volumes of an instance that is no more; one that another names stays."""
    for name in instance.volumes:
        with contextlib.suppress(NotFound, InUse):
            if find(name).anonymous:
                remove(name)


def prune() -> list[str]:
    """Remove every volume that no instance names; the names."""
    idle = [volume.name for volume in every() if not volume.users]
    for name in idle:
        remove(name)
    return idle
