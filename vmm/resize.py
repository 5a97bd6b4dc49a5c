"""Memory, processors, disks and cards of a running machine: hotplug into the spare places it was born
with."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from host.errors import DeadlinePassed, Failure, Unsupported
from vmm.spec import Disk, Nic

if TYPE_CHECKING:
    from vmm.machine import Machine

_MIB = 1 << 20
# Linux takes hotplugged memory in sections of 128 MiB on x86 (mm/sparse.c).
DIMM_STEP_BYTES = 128 * _MIB
_UNPLUG_S = 20.0
_TAKEN_S = 3.0


def update(machine: Machine, memory_bytes: int | None = None, cpus: float | None = None) -> None:
    """Change a running machine's memory (balloon down, DIMM up) and processors (hotplug up).

    Raises Unsupported, with the way that works, for what this machine was not born to do.
    """
    # What it has now is asked of QEMU: the record may tell of another past, after a snapshot was restored.
    if cpus is not None:
        set_cpus(machine, int(cpus))
    if memory_bytes is not None:
        set_memory(machine, memory_bytes)


def set_memory(machine: Machine, size_bytes: int) -> None:
    """Give or take memory: within what is plugged by the balloon, beyond it by one more DIMM."""
    plugged = sum(machine.execute("query-memory-size-summary").values())
    if size_bytes > plugged:
        _add_dimm(machine, size_bytes - plugged)
    if machine.spec.balloon:
        machine.execute("balloon", {"value": size_bytes})
    elif size_bytes < plugged:
        hint = f"vmm stop {machine.folder.name}, then update it"
        raise Unsupported(
            "cannot take memory from", machine.folder.name, "it was born without a balloon", hint
        )


def _add_dimm(machine: Machine, more_bytes: int) -> None:
    name = machine.folder.name
    if not machine.spec.max_memory_bytes:
        hint = f"vmm stop {name}, then update it"
        raise Unsupported("cannot add memory to", name, "it was born without memory slots", hint)
    if more_bytes % DIMM_STEP_BYTES:
        raise Unsupported("cannot add that much memory to", name, "Linux takes it in steps of 128 MiB")
    number = len(machine.execute("query-memory-devices"))
    backend, device = f"dimm-memory{number}", f"dimm{number}"
    machine.execute("object-add", {"qom-type": "memory-backend-ram", "id": backend, "size": more_bytes})
    try:
        machine.execute("device_add", {"driver": "pc-dimm", "id": device, "memdev": backend})
    except BaseException:
        machine.execute("object-del", {"id": backend})
        raise
    _until_taken(machine, device)


def _until_taken(machine: Machine, device: str) -> None:
    """Wait for the guest's answer to a hotplug (_OST, ACPI 6.5, 6.3.5): device_add only rings for it.

    A guest that does not answer in _TAKEN_S (it boots, or has no driver) may take it later. Raises Failure
    where its kernel refused.
    """
    until = time.monotonic() + _TAKEN_S
    while time.monotonic() < until:
        slots = machine.execute("query-acpi-ospm-status")
        told = next((one for one in slots if one.get("device") == device), None)
        if told and told["source"]:
            break
        time.sleep(0.01)
    else:
        return
    if told["status"]:
        status = f"its kernel refused it: ACPI status {told['status']}"
        raise Failure(
            f"cannot plug {device} into", machine.folder.name, status, f"vmm logs {machine.folder.name}"
        )


def set_cpus(machine: Machine, count: int) -> None:
    """Plug processors in; the guest's kernel brings them up."""
    name = machine.folder.name
    slots = machine.execute("query-hotpluggable-cpus")
    used = [one for one in slots if "qom-path" in one]
    if count < len(used):
        hint = f"vmm stop {name}, then update it"
        raise Unsupported("cannot take processors from", name, "Linux guests may be using them", hint)
    free = sorted(
        (one for one in slots if "qom-path" not in one), key=lambda one: sorted(one["props"].items())
    )
    if count - len(used) > len(free):
        hint = f"vmm stop {name}, then update it"
        raise Unsupported(f"cannot give {count} processors to", name, f"it was born for {len(slots)}", hint)
    for number, slot in enumerate(free[: count - len(used)], start=len(used)):
        machine.execute("device_add", {"driver": slot["type"], "id": f"cpu{number}", **slot["props"]})
        _until_taken(machine, f"cpu{number}")
    _bring_up(machine)


def _bring_up(machine: Machine) -> None:
    """Tell the guest to use its new processors: where no udev rule does, they stay offline."""
    from vmm import inside

    words = "for cpu in /sys/devices/system/cpu/cpu*/online; do echo 1 > $cpu; done"
    with contextlib.suppress(Failure):
        inside.run(machine, ("sh", "-c", words))


def free_port(machine: Machine) -> str:
    """A spare pcie-root-port with nothing in it; PCI devices of a q35 are hotplugged behind those only."""
    for bus in machine.execute("query-pci"):
        for device in bus["devices"]:
            bridge = device.get("pci_bridge")
            if bridge and not bridge.get("devices") and _is_spare(device.get("qdev_id", "")):
                return str(device["qdev_id"])
    name = machine.folder.name
    why = (
        "a microvm has no PCI hotplug" if machine.spec.boot == "microvm" else "its spare PCI ports are taken"
    )
    raise Unsupported("cannot plug a device into", name, why, f"vmm stop {name}, then add it")


def _is_spare(name: str) -> bool:
    return name.startswith(("spare", "pci."))


def add_disk(machine: Machine, disk: Disk, name: str) -> None:
    """Plug a disk in; it is gone with the next start unless the spec has it too."""
    options: dict[str, Any] = {
        "driver": disk.format,
        "node-name": f"hot-{name}",
        "read-only": disk.read_only,
        "discard": "unmap",
        "file": {"driver": "file", "filename": disk.path},
    }
    port = free_port(machine)
    machine.lend(Path(disk.path))
    machine.execute("blockdev-add", options)
    device = {"driver": "virtio-blk-pci", "id": f"hot-{name}", "drive": f"hot-{name}", "bus": port}
    try:
        machine.execute("device_add", device | ({"serial": disk.serial} if disk.serial else {}))
    except BaseException:
        machine.execute("blockdev-del", {"node-name": f"hot-{name}"})
        raise


def add_nic(machine: Machine, nic: Nic, name: str) -> None:
    """Plug a network card of the user network in."""
    if nic.kind != "user":
        raise Unsupported(
            "cannot plug a card of that network into", machine.folder.name, hint="--network at its birth"
        )
    port = free_port(machine)
    machine.execute("netdev_add", {"type": "user", "id": f"hot-{name}"})
    device = {
        "driver": "virtio-net-pci",
        "id": f"hot-{name}",
        "netdev": f"hot-{name}",
        "bus": port,
        "romfile": "",
    }
    try:
        machine.execute("device_add", device | ({"mac": nic.mac} if nic.mac else {}))
    except BaseException:
        machine.execute("netdev_del", {"id": f"hot-{name}"})
        raise


def remove(machine: Machine, name: str) -> None:
    """Unplug what `add_disk` or `add_nic` plugged in; waits until the guest has let go of it."""
    machine.execute("device_del", {"id": f"hot-{name}"})
    deadline = time.monotonic() + _UNPLUG_S
    while _is_there(machine, f"hot-{name}"):
        if time.monotonic() > deadline:
            raise DeadlinePassed("the guest did not let go of", name, f"after {_UNPLUG_S:g} s")
        time.sleep(0.05)
    for command, arguments in (
        ("blockdev-del", {"node-name": f"hot-{name}"}),
        ("netdev_del", {"id": f"hot-{name}"}),
    ):
        with contextlib.suppress(Failure):
            machine.execute(command, arguments)


def is_plugged(machine: Machine, name: str) -> bool:
    """Whether `add_disk` or `add_nic` plugged in a device of that name since the machine began."""
    return _is_there(machine, f"hot-{name}")


def _is_there(machine: Machine, device: str) -> bool:
    found = machine.execute("qom-list", {"path": "/machine/peripheral"})
    return any(one["name"] == device for one in found)
