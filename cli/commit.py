"""vmm commit, diff, export: what an instance has become, as an image, a list, or one file."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from cli import table
from host import guard
from host.errors import HostUnfit, Unsupported
from instances import kinds, registry

if TYPE_CHECKING:
    from images.store import Store
    from instances.kinds import Backend
    from instances.registry import Instance


def configure(parser: argparse.ArgumentParser) -> None:
    """The flags of the three."""
    command = parser.get_default("command")
    parser.add_argument("name", metavar="NAME")
    if command == "commit":
        parser.add_argument("image", metavar="IMAGE[:TAG]")
        parser.add_argument("-m", "--message", default="", help="a comment for the history")
        parser.add_argument("-a", "--author", default="", help="who did it")
        help = "as in a Dockerfile"
        parser.add_argument("-c", "--change", metavar="LINE", action="append", default=[], help=help)
    elif command == "diff":
        parser.add_argument("--json", action="store_true", help="one JSON document")
    else:
        help = "else stdout; a machine's disk alone where it ends in .qcow2, .raw, .vmdk ..."
        parser.add_argument("-o", "--output", metavar="FILE", help=help)


def main(args: argparse.Namespace) -> int:
    """Run the command."""
    instance = registry.find(args.name)
    return {"commit": _commit, "diff": _diff, "export": _export}[args.command](args, instance)


def _commit(args: argparse.Namespace, instance: Instance) -> int:
    from images import commit, reference

    if instance.kind == kinds.MACHINE:
        hint = f"vmm export {instance.name} -o FILE.qcow2 writes its disk; vmm image import takes it"
        raise Unsupported("cannot commit a machine", instance.name, "a disk is no stack of layers", hint)
    reference.parse(args.image)
    store = _store()
    base = store.resolve(instance.image_digest)
    with _still(instance):
        image = commit.commit(
            store, base, instance.folder / "upper", args.image, args.message, args.author, args.change
        )
    print(image.digest)
    return 0


def _diff(args: argparse.Namespace, instance: Instance) -> int:
    from images import commit

    if instance.kind == kinds.MACHINE:
        raise Unsupported(
            "cannot compare a machine", instance.name, "its disk is opaque", "vmm export, or vmm cp"
        )
    store = _store()
    lowers = store.lower_dirs(store.resolve(instance.image_digest))
    found = commit.diff(instance.folder / "upper", lowers)
    changes = _without_places(found, _places(instance))
    if args.json:
        words = {"A": "added", "C": "changed", "D": "deleted"}
        print(table.document(changes=[{"path": path, "change": words[kind]} for kind, path in changes]))
    else:
        table.say("\n".join(f"{kind} {path}" for kind, path in changes))
    return 0


def _places(instance: Instance) -> set[str]:
    """Where mounts of ours lay: the engine made these places, not the container."""
    from containers.spec import ContainerSpec

    spec = ContainerSpec.from_record(instance.spec)
    devices = {one.target for one in spec.devices}
    return {f"/etc/{name}" for name in spec.etc_files()} | {one.target for one in spec.mounts} | devices


def _without_places(changes: Sequence[tuple[str, str]], places: set[str]) -> list[tuple[str, str]]:
    """The changes but those places, and but the folders that changed for nothing else."""
    kept = [one for one in changes if not (one[0] == "A" and one[1] in places)]
    above = {str(folder) for place in places for folder in PurePath(place).parents}
    told = [path for _, path in kept]
    return [
        (kind, path)
        for kind, path in kept
        if kind == "D" or path not in above or any(one.startswith(f"{path}/") for one in told)
    ]


def _export(args: argparse.Namespace, instance: Instance) -> int:
    if instance.kind == kinds.MACHINE:
        return _export_disk(args, instance)
    from cli.image_move import writing
    from images import rootfs

    store = _store()
    lowers = store.lower_dirs(store.resolve(instance.image_digest))
    with writing(args.output) as sink, _still(instance):
        rootfs.export((instance.folder / "upper", *lowers), sink)
    return 0


def _export_disk(args: argparse.Namespace, instance: Instance) -> int:
    """The whole machine, for `vmm import`; or its disk with all that it stands on, where FILE names a format.

    It must stand still, or it would be torn.
    """
    from cli.image_move import writing
    from host.errors import WrongState
    from images import disks
    from instances import moving

    disk_format = Path(args.output or "").suffix.removeprefix(".")
    if disk_format not in disks.FORMATS:
        with registry.held(instance), writing(args.output) as sink:
            if args.output:
                os.fchmod(sink.fileno(), 0o600)  # it holds the machine's private key
            moving.export(instance, sink)
        return 0
    state = kinds.backend(instance).state()
    if state in kinds.RUNNING:
        raise WrongState("cannot export", instance.name, f"it is {state}", f"vmm stop {instance.name}")
    found = sorted(instance.folder.glob("disk.*"))
    disks.convert(found[0], Path(args.output), disk_format, source_format=found[0].suffix.removeprefix("."))
    return 0


@contextlib.contextmanager
def _still(instance: Instance) -> Iterator[None]:
    """Pause a running container meanwhile, so that no file changes while it is read (docker does so, too)."""
    backend = kinds.backend(instance)
    if backend.state() != "running":
        yield
        return
    with guard.guarded(lambda: _go_on(backend)):
        try:
            backend.pause()
        except HostUnfit as error:  # a user without a cgroup has no freezer
            sys.stderr.write(f"vmm: {instance.name} goes on meanwhile: {error}\n")
            yield
            return
        try:
            yield
        finally:
            backend.resume()


def _go_on(backend: Backend) -> None:
    if backend.state() == "paused":
        backend.resume()


def _store() -> Store:
    from instances import provision

    return provision.store()
