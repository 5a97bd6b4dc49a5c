"""Disks and network cards that come to a machine, and go, while it runs or before its next start."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, cast

from host import commands
from host.errors import InUse, NotFound, Unsupported, Usage
from host.sizes import parse_bytes
from instances import events, kinds, registry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from instances.registry import Instance
    from vmm.machine import Machine
    from vmm.spec import MachineSpec

# A disk's serial number, by which the guest finds it in /dev/disk/by-id, holds 20 bytes (virtio-blk).
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,19}")


def add_disk(instance: Instance, words: str) -> bool:
    """Add the disk of `NAME=SIZE` (a new one), `NAME=FILE` or `NAME=libvirt:POOL/VOLUME`; whether the guest
    has it already.

    The guest finds it as /dev/disk/by-id/virtio-NAME. InUse for a taken name, Unsupported where it runs and
    has no place for it; nothing is left then.
    """
    from vmm import resize
    from vmm.spec import Disk

    name, what = _split(words)
    with _changing(instance) as (machine, spec):
        if any(disk.serial == name for disk in spec.disks):
            raise InUse("cannot add the disk", name, f"{instance.name} has one of that name")
        path, made = _volume_file(machine, what) or _disk_file(instance.folder, name, what)
        disk = Disk(path=str(path), format=_format(path), serial=name)
        try:
            if running := machine.pid() is not None:
                resize.add_disk(machine, disk, name)
            _save(instance, spec._replace(disks=(*spec.disks, disk)))
        except BaseException:
            if made:
                path.unlink(missing_ok=True)
            raise
        events.happened("disk added", instance.name, instance.kind, disk=name)
        return running


def remove_disk(instance: Instance, name: str) -> bool:
    """Take a disk away that was added by name; one that we made is deleted. Whether that is so now."""
    from vmm import resize

    with _changing(instance) as (machine, spec):
        found = next((disk for disk in spec.disks[1:] if disk.serial == name), None)
        if found is None:
            raise NotFound("no disk", repr(name), f"{instance.name} has none of that name that was added")
        if running := machine.pid() is not None:
            _must_be_hot(machine, name)
            resize.remove(machine, name)
        _save(instance, spec._replace(disks=tuple(disk for disk in spec.disks if disk != found)))
        if Path(found.path).parent == instance.folder:
            Path(found.path).unlink(missing_ok=True)
        events.happened("disk removed", instance.name, instance.kind, disk=name)
        return running


def add_nic(instance: Instance, name: str) -> bool:
    """Plug one more card of QEMU's own NAT into a running machine; it is gone with its next start."""
    from vmm import resize
    from vmm.spec import Nic

    with _changing(instance) as (machine, _):
        _must_run(machine, instance)
        resize.add_nic(machine, Nic(), _checked(name))
        return True


def remove_nic(instance: Instance, name: str) -> bool:
    """Unplug a card that `add_nic` plugged in."""
    from vmm import resize

    with _changing(instance) as (machine, _):
        _must_run(machine, instance)
        _must_be_hot(machine, name)
        resize.remove(machine, name)
        return True


@contextlib.contextmanager
def _changing(instance: Instance) -> Iterator[tuple[Machine, MachineSpec]]:
    from vmm.spec import from_record

    if instance.kind != kinds.MACHINE:
        hint = "-v shares a folder with a container, vmm network connects it"
        raise Unsupported("cannot plug a device into", instance.name, "it is a container", hint)
    with registry.held(instance):
        yield cast("Machine", kinds.backend(instance)), from_record(registry.load(instance.name).spec)


def _must_run(machine: Machine, instance: Instance) -> None:
    if machine.pid() is None:
        hint = f"vmm start {instance.name}; --network gives a card at birth"
        raise Unsupported("cannot plug a card into", instance.name, "it does not run", hint)


def _must_be_hot(machine: Machine, name: str) -> None:
    from vmm import resize

    if not resize.is_plugged(machine, name):
        hint = f"vmm stop {machine.folder.name} first"
        raise Unsupported("cannot unplug", name, "the machine was started with it", hint)


def _save(instance: Instance, spec: MachineSpec) -> None:
    registry.save(instance._replace(spec=spec.to_record()))


def _split(words: str) -> tuple[str, str]:
    name, _, what = words.partition("=")
    if not what:
        raise Usage("cannot read the disk", repr(words), "not NAME=SIZE or NAME=FILE", "--add-disk data=1G")
    return _checked(name), what


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise Usage("cannot use the name", repr(name), "a-z, 0-9 and - only, 20 at most")
    return name


def _volume_file(machine: Machine, what: str) -> tuple[Path, bool] | None:
    """The file of a volume of libvirt's, made its QEMU's own; None where the word names none."""
    scheme, _, words = what.partition(":")
    if scheme != "libvirt":
        return None
    if machine.spec.driver != "libvirt":
        hint = "name the volume's file (virsh vol-path), or --driver libvirt at its birth"
        raise Unsupported("cannot use libvirt's volume", words, "libvirt does not run the machine", hint)
    from vmm import libvirt_pools
    from vmm.libvirt_daemon import default_uri

    path = libvirt_pools.volume(machine.spec.uri or default_uri(), words)
    machine.lend(path)
    return path, False


def _disk_file(folder: Path, name: str, what: str) -> tuple[Path, bool]:
    """The disk's file, and whether we made it: a word with a slash or of a file that is there names one."""
    given = Path(os.path.abspath(what))
    if "/" in what or given.exists():
        if not given.is_file():
            raise NotFound("no disk at", what)
        return given, False
    size, path = parse_bytes(what, "disk size"), folder / f"extra-{name}.qcow2"
    words = ("qemu-img", "create", "-q", "-f", "qcow2", str(path), str(size))
    commands.run(words, "cannot make the disk", timeout_s=60)
    return path, True


def _format(path: Path) -> str:
    from images import disks

    return disks.trusted_format(path)
