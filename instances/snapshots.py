"""Snapshots of an instance: machines have them, containers do not."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from host.errors import Unsupported
from instances import kinds, registry

if TYPE_CHECKING:
    from instances.registry import Instance
    from vmm.machine import Machine
    from vmm.snapshots import Snapshot


def keep(instance: Instance, tag: str, memory: bool) -> Snapshot:
    """Keep the disks, and the memory of a running machine, under a name; what was kept, and how.

    Raises Unsupported for a container.
    """
    from vmm import snapshots

    with registry.held(instance):
        machine = _machine(instance)
        snapshots.create(machine, tag, memory)
        return next(one for one in snapshots.listed(machine) if one.tag == tag)


def restore(instance: Instance, tag: str) -> str:
    """Go back to a snapshot; with memory the machine runs on from there. How it was loaded."""
    from vmm import snapshots

    with registry.held(instance):
        return snapshots.restore(_machine(instance), tag)


def _machine(instance: Instance) -> Machine:
    if instance.kind != kinds.MACHINE:
        hint = f"vmm commit {instance.name} IMAGE keeps a container's files"
        raise Unsupported("no snapshots of", instance.name, "it is a container", hint)
    return cast("Machine", kinds.backend(instance))
