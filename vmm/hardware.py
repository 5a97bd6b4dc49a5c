"""What a running machine is made of by now: memory and processors from its birth, and those plugged in since.

QEMU loads a memory snapshot only into a machine of the same hardware (migration.rst: "the same devices"), so
that is kept beside the snapshot, and plugged in again, at the same addresses, before it is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from host import records
from vmm import ports
from vmm.spec import MachineSpec, replace

if TYPE_CHECKING:
    from vmm.machine import Machine


class Hardware(NamedTuple):
    """Memory, processors and ports: `memory_bytes` and `cpus` from birth, the others as QEMU lists them.

    `machine` is the type with QEMU's own version in it (pc-q35-10.0), which later QEMUs know; of a snapshot
    whose memory is a file of its own, `file_bytes` is that file's length. Both were not kept by older vmms.
    """

    memory_bytes: int
    cpus: int
    dimms: tuple[dict[str, Any], ...] = ()
    plugged_cpus: tuple[dict[str, Any], ...] = ()
    ports: tuple[str, ...] = ()
    is_clone: bool | None = None  # its memory has a name of its own; None: kept by a vmm that did not ask
    machine: str = ""
    qemu: str = ""
    file_bytes: int = 0

    def born(self, spec: MachineSpec) -> MachineSpec:
        """The spec with what the machine was born with."""
        born = replace(spec, memory_bytes=self.memory_bytes, cpus=self.cpus)
        return replace(born, machine=self.machine) if self.machine else born


def of(machine: Machine) -> Hardware:
    """The hardware of the running machine, as QEMU tells it."""
    found = _plugged(machine)
    kind = str(machine.execute("qom-get", {"path": "/machine", "property": "type"}))
    version = machine.execute("query-version")["qemu"]
    return found._replace(
        is_clone=_has_backend(machine),
        machine=kind.removesuffix("-machine"),
        qemu=f"{version['major']}.{version['minor']}.{version['micro']}",
    )


def _plugged(machine: Machine) -> Hardware:
    spec = machine.spec
    if not (spec.max_memory_bytes or spec.max_cpus):  # it has no place to plug anything else in
        return Hardware(spec.memory_bytes, spec.cpus, ports=ports.of(machine.driver))
    base = int(machine.execute("query-memory-size-summary")["base-memory"])
    dimms = tuple(
        dict(one["data"]) for one in machine.execute("query-memory-devices") if one["type"] == "dimm"
    )
    slots = [one for one in machine.execute("query-hotpluggable-cpus") if "qom-path" in one]
    plugged = tuple(
        {"id": Path(one["qom-path"]).name, "driver": one["type"], **one["props"]}
        for one in sorted(slots, key=lambda one: str(one["qom-path"]))
        if one["qom-path"].startswith("/machine/peripheral/")
    )
    return Hardware(base, len(slots) - len(plugged), dimms, plugged)


def _has_backend(machine: Machine) -> bool:
    return any(one.get("id") == "ram" for one in machine.execute("query-memdev"))


def keep(machine: Machine, tag: str) -> None:
    """Keep the machine's hardware beside a snapshot of its memory."""
    records.write(_path(machine.folder, tag), of(machine)._asdict())


def note_file(folder: Path, tag: str, size_bytes: int) -> None:
    """Add the length of the file that holds the memory."""
    before = kept(folder, tag)
    assert before is not None
    records.write(_path(folder, tag), before._replace(file_bytes=size_bytes)._asdict())


def kept(folder: Path, tag: str) -> Hardware | None:
    """What was kept for a snapshot; None where nothing was, as for those of an older vmm."""
    try:
        told = records.read(_path(folder, tag))
    except FileNotFoundError:
        return None
    return Hardware(
        told["memory_bytes"],
        told["cpus"],
        tuple(told["dimms"]),
        tuple(told["plugged_cpus"]),
        tuple(told.get("ports", ())),
        told.get("is_clone"),
        told.get("machine", ""),
        told.get("qemu", ""),
        told.get("file_bytes", 0),
    )


def fits(machine: Machine, tag: str) -> bool:
    """Whether the running machine's hardware is still that of the snapshot."""
    before = kept(machine.folder, tag)
    if before is None:
        return True
    now = of(machine)._replace(qemu=before.qemu, file_bytes=before.file_bytes)
    now = now if before.is_clone is not None else now._replace(is_clone=None)
    return before == (now if before.machine else now._replace(machine=""))


def tags(folder: Path) -> set[str]:
    """The names of the snapshots for which something was kept."""
    return {path.stem.removeprefix("hardware-") for path in folder.glob("hardware-*.json")}


def drop(machine: Machine, tag: str) -> None:
    """Forget what was kept for a snapshot."""
    _path(machine.folder, tag).unlink(missing_ok=True)


def plug_again(machine: Machine, hardware: Hardware) -> None:
    """Plug into a machine whose processors stand still what its predecessor had got while it ran."""
    for dimm in hardware.dimms:
        backend = Path(dimm["memdev"]).name
        machine.execute("object-add", {"qom-type": "memory-backend-ram", "id": backend, "size": dimm["size"]})
        place = {key: dimm[key] for key in ("addr", "slot", "node")}
        machine.execute("device_add", {"driver": "pc-dimm", "id": dimm["id"], "memdev": backend, **place})
    for cpu in hardware.plugged_cpus:
        machine.execute("device_add", cpu)


def _path(folder: Path, tag: str) -> Path:
    return folder / f"hardware-{tag}.json"
