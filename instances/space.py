"""What takes disk space in a home, and giving back what nothing uses."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from host import paths
from instances import kinds, registry, repair, runs, volumes

if TYPE_CHECKING:
    from images.store import Store


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


def _templates() -> tuple[Use, Use, Use]:
    """Frozen machines: their folders, and their memory, in a file system in memory: gone after a reboot; and
    what their paused clones hold beyond it."""
    from vmm import pool, templates

    home, found = paths.home(), templates.every(paths.home())
    used = sum(bool(templates.standing_on(home, one.name)) for one in found)
    kept = sum(one.memory.exists() for one in found)
    paused = [one for template in found for one in pool.ready(template)]
    return (
        Use("templates", len(found), used, allocated_bytes(templates.root(home))),
        Use("their memory (RAM)", kept, used, allocated_bytes(templates.memory_dir(home))),
        Use("their paused clones (RAM)", len(paused), 0, sum(map(pool.own_bytes, paused))),
    )


def _images() -> list[str]:
    from instances import provision

    return [image.digest for image in provision.store().images()]


def image_users(store: Store) -> dict[str, list[str]]:
    """Who stands on each image, by its digest: names of instances, and `template NAME` for one with a name.

    A template of `vmm run` itself is none: it is made again with the image.
    """
    from vmm import templates

    found: dict[str, list[str]] = {}
    for instance in registry.every():
        found.setdefault(instance.image_digest, []).append(instance.name)
    whole = {entry["digest"].removeprefix("sha256:")[:32]: entry["digest"] for entry in store.entries()}
    for one in templates.every(paths.home()):
        if not one.automatic and one.image_digest in whole:
            found.setdefault(whole[one.image_digest], []).append(f"template {one.name}")
    return found


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

    before = _held_bytes()
    removed = repair.repair()
    for row in runs.listing():
        if row.state not in kinds.RUNNING and row.state not in ("unknown", kinds.RESTARTING):
            runs.remove(row.instance)
            removed.append(f"instance {row.instance.name}")
    if volumes:
        removed += [f"volume {name}" for name in named.prune()]
    removed += _prune_templates(everything=images)
    removed += _prune_images(images)
    return Pruned(removed, max(0, before - _held_bytes()))


def _held_bytes() -> int:
    """What the home takes of its disk, and its templates of memory."""
    from vmm import templates

    return allocated_bytes(paths.home()) + allocated_bytes(templates.memory_dir(paths.home()))


def _prune_templates(everything: bool) -> list[str]:
    """Templates of `vmm run` itself that are of no more use, or all: the next run freezes them again."""
    from vmm import templates

    home = paths.home()
    made = [one for one in templates.every(home) if one.automatic and (everything or templates.damage(one))]
    for one in made:
        templates.remove(home, one.name)
    return [f"template {one.name}" for one in made]


def _prune_images(unused: bool) -> list[str]:
    """Blobs, layers and disks that no image names; with `unused` first the images that no instance uses."""
    from images import prune
    from instances import provision

    store = provision.store()
    return prune.prune(store, image_users(store), everything=unused).lines()
