"""What takes disk space in a home, and giving back what nothing uses."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from host import paths
from instances import kinds, registry, repair, runs, volumes


class Use(NamedTuple):
    """What one part of the home holds: how many, how many in use, and bytes allocated on the disk."""

    what: str
    number: int
    active: int
    allocated_bytes: int


class Pruned(NamedTuple):
    """What was removed, one line each, and the bytes that the disk got back."""

    removed: list[str]
    freed_bytes: int


def uses() -> list[Use]:
    """Images, instances, volumes and caches, with what each allocates on the disk."""
    home, rows, images = paths.home(), runs.listing(), _images()
    active = {row.instance.image_digest for row in rows}
    found = volumes.every()
    return [
        Use("images", len(images), len(set(images) & active), allocated_bytes(home / "images")),
        Use(
            "instances",
            len(rows),
            sum(row.state in kinds.RUNNING for row in rows),
            allocated_bytes(paths.instances_dir()),
        ),
        Use("volumes", len(found), sum(bool(one.users) for one in found), allocated_bytes(home / "volumes")),
        *_templates(),
        Use("caches", _count(home / "cache"), 0, allocated_bytes(home / "cache")),
    ]


def _templates() -> tuple[Use, Use]:
    """Frozen machines: their folders, and their memory, in a file system in memory: gone after a reboot."""
    from vmm import templates

    home, found = paths.home(), templates.every(paths.home())
    used = sum(bool(templates.standing_on(home, one.name)) for one in found)
    kept = sum(one.memory.exists() for one in found)
    return (
        Use("templates", len(found), used, allocated_bytes(templates.root(home))),
        Use("their memory (RAM)", kept, used, allocated_bytes(templates.memory_dir(home))),
    )


def _images() -> list[str]:
    from instances import provision

    return [image.digest for image in provision.store().images()]


def _count(folder: Path) -> int:
    return sum(1 for _ in os.scandir(folder)) if folder.is_dir() else 0


def allocated_bytes(tree: Path) -> int:
    """Bytes that a tree occupies (st_blocks, stat(2)); a file with several names counts once."""
    seen: set[tuple[int, int]] = set()
    total, waiting = 0, [str(tree)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    told = entry.stat(follow_symlinks=False)
                    if (told.st_dev, told.st_ino) not in seen:
                        seen.add((told.st_dev, told.st_ino))
                        total += told.st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue  # it went while we looked, or belongs to a user inside a container
    return total


def prune(images: bool = False, volumes: bool = False) -> Pruned:
    """Remove instances that stand still; with `images` and `volumes` also those that nobody uses."""
    from instances import volumes as named

    before = allocated_bytes(paths.home())
    removed = repair.repair()
    for row in runs.listing():
        if row.state not in kinds.RUNNING and row.state not in ("unknown", kinds.RESTARTING):
            runs.remove(row.instance)
            removed.append(f"instance {row.instance.name}")
    if volumes:
        removed += [f"volume {name}" for name in named.prune()]
    if images:
        removed += _prune_templates()
    removed += _prune_images(images)
    return Pruned(removed, max(0, before - allocated_bytes(paths.home())))


def _prune_templates() -> list[str]:
    """Templates that nobody asked for by name: the next run freezes them again."""
    from vmm import templates

    made = [one.name for one in templates.every(paths.home()) if one.automatic]
    for name in made:
        templates.remove(paths.home(), name)
    return [f"template {name}" for name in made]


def _prune_images(unused: bool) -> list[str]:
    """Blobs, layers and disks that no image names; with `unused` first the images that no instance uses."""
    from images import prune
    from instances import provision

    used = {instance.image_digest for instance in registry.every()}
    return prune.prune(provision.store(), used, everything=unused).lines()
