"""Snapshots inside a machine's own qcow2 disks, with or without its memory; the UEFI variables go along.

Disks are kept by both drivers as internal snapshots: they leave no chain behind, so that deleting one is
deleting it. Memory goes into a file of its own where QEMU has mapped-ram (vmm.mapped_ram), else into the
first disk. QEMU's HMP savevm refuses machines whose variables lie in raw pflash; the QMP jobs snapshot-save
and snapshot-load take the list of disks, and we copy the variables file beside them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from host import commands
from host.errors import (
    CommandFailed,
    DeadlinePassed,
    Failure,
    InUse,
    NotFound,
    Unsupported,
    Usage,
    WrongState,
)
from host.sizes import format_bytes
from vmm import bringup, forwards, hardware, holes, mapped_ram, templates

if TYPE_CHECKING:
    from vmm.machine import Machine
    from vmm.spec import Forward

_TAG = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}")
JOB_S = 600.0
Progress = Callable[[int, int], None]  # what is done, and of how much, in QEMU's own units


def _silent(done: int, total: int) -> None:
    pass


VMSTATE = "vmstate"  # memory and devices inside the first disk


class Snapshot(NamedTuple):
    """One snapshot: what its memory takes on the disk, and how it is kept, `vmstate` or `mapped-ram`.

    Where only the disks were kept both are empty.
    """

    tag: str
    memory_bytes: int
    unix_s: float
    memory_format: str = ""


def listed(machine: Machine) -> list[Snapshot]:
    """The snapshots of the machine's first disk, oldest first."""
    disks = _disks(machine)
    if not disks or not _number(disks[0]):
        return []
    words = ("qemu-img", "info", "--output=json", "--force-share", disks[0])
    told = json.loads(commands.run(words, "cannot list the snapshots", timeout_s=30))
    begun = mapped_ram.unfinished(machine.folder)
    found = [_one(machine.folder, one) for one in told.get("snapshots", []) if one["name"] not in begun]
    return sorted(found, key=lambda one: one.unix_s)


def _number(disk: str) -> int:
    """How many snapshots a qcow2 holds (docs/interop/qcow2.txt, nb_snapshots); 1 where it cannot be read."""
    try:
        with open(disk, "rb") as file:
            return int.from_bytes(file.read(64)[60:64], "big")
    except OSError:
        return 1


def _one(folder: Path, told: dict[str, Any]) -> Snapshot:
    tag, in_disk = str(told["name"]), int(told["vm-state-size"])
    if in_disk:
        return Snapshot(tag, in_disk, told["date-sec"], VMSTATE)
    kept = hardware.kept(folder, tag)
    if kept is None or not kept.file_bytes:
        return Snapshot(tag, 0, told["date-sec"])
    file = mapped_ram.file(folder, tag)
    allocated = file.stat().st_blocks * 512 if file.exists() else 0
    return Snapshot(tag, allocated, told["date-sec"], mapped_ram.NAME)


def create(machine: Machine, tag: str, memory: bool, progress: Progress = _silent) -> None:
    """Keep the disks (and the memory, of a running machine) under a name.

    Raises InUse for a name that is taken, Unsupported for disks that cannot hold one, WrongState for the
    memory of a machine that does not run.
    """
    if not _TAG.fullmatch(tag):
        raise Usage("cannot name the snapshot", repr(tag), "letters, digits, _ . - only, 63 at most")
    if any(one.tag == tag for one in listed(machine)):
        raise InUse("cannot take the snapshot", repr(tag), f"{machine.folder.name} has one of that name")
    _drop_strays(machine)
    running = machine.pid() is not None
    if memory and not running:
        raise WrongState(
            "cannot keep the memory of", machine.folder.name, "it does not run", "leave --memory out"
        )
    _keep_vars(machine, tag)
    try:
        if memory:
            hardware.keep(machine, tag)
        _create(machine, tag, memory, running, progress)
    except BaseException:
        _forget(machine, tag)
        raise
    if memory:
        holes.give_back(holes.memory_of(machine.pid()))


def _create(machine: Machine, tag: str, memory: bool, running: bool, progress: Progress) -> None:
    if memory:
        _create_with_memory(machine, tag, progress)
    elif running:
        actions = [_action("blockdev-snapshot-internal-sync", node, tag) for node in _live_devices(machine)]
        machine.execute("transaction", {"actions": actions}, 60.0)
    else:
        for disk in _writable(machine):
            commands.run(("qemu-img", "snapshot", "-c", tag, disk), "cannot take the snapshot", timeout_s=60)


def _create_with_memory(machine: Machine, tag: str, progress: Progress) -> None:
    nodes = live_nodes(machine)
    if mapped_ram.why_not(machine):
        _with_all_memory(machine)
        _job(machine, "snapshot-save", {"tag": tag, "vmstate": nodes[0], "devices": nodes}, progress)
        return
    try:
        size_bytes = mapped_ram.save(machine, tag, nodes, progress)
    except CommandFailed:
        raise
    except Failure as error:
        raise _refused(machine, "snapshot", error.why) from None
    hardware.note_file(machine.folder, tag, size_bytes)


def _action(kind: str, device: str, tag: str) -> dict[str, Any]:
    return {"type": kind, "data": {"device": device, "name": tag}}


def restore(machine: Machine, tag: str, progress: Progress = _silent) -> str:
    """Go back to a snapshot; with memory the machine runs on from there, without it stays as it is, stopped.

    Returns how the memory was loaded: `vmstate`, `mapped-ram`, or nothing. Raises NotFound, and WrongState
    where a disk-only snapshot would be pulled from under a running guest.
    """
    mapped_ram.settle(machine)
    found = _find(machine, tag)
    running = machine.pid() is not None
    if found.memory_format == mapped_ram.NAME:
        return _restore_from_file(machine, tag, running)
    if found.memory_format and running and hardware.fits(machine, tag):
        load(machine, tag)
        holes.give_back(holes.memory_of(machine.pid()))
    elif found.memory_format:
        if running:
            machine.kill()  # it has got processors or memory since, which the snapshot knows nothing of
        _put_vars_back(machine, tag)
        return machine.start_from(tag)
    elif running:
        name = machine.folder.name
        why = "a running guest would not know that its disk went back"
        raise WrongState(f"cannot restore the disks {tag!r} of", name, why, f"vmm stop {name} first")
    else:
        _disks_back(machine, tag)
    _put_vars_back(machine, tag)
    return found.memory_format


def _restore_from_file(machine: Machine, tag: str, running: bool) -> str:
    """Into a new QEMU always: one that runs takes no such file in."""
    kept = hardware.kept(machine.folder, tag)
    assert kept is not None
    mapped_ram.check(machine, tag, kept.file_bytes)
    if not running:
        return machine.start_from(tag)
    mapped_ram.check_qemu(machine)
    on_user = any(nic.kind == "user" for nic in machine.spec.nics)
    given = forwards.listed(machine.driver) if on_user else ()
    machine.kill()
    how = machine.start_from(tag)
    if on_user:
        _forward_again(machine, given)
    return how


def _forward_again(machine: Machine, given: tuple[Forward, ...]) -> None:
    """Have the ports that the machine had before its QEMU ended, those that QEMU chose too."""
    there = forwards.listed(machine.driver)
    for one in there:
        if one not in given:
            forwards.remove(machine.driver, one)
    for one in given:
        if one not in there:
            forwards.add(machine.driver, one)
    bringup.note_address(machine)


def _disks_back(machine: Machine, tag: str) -> None:
    for disk in _writable(machine):
        commands.run(("qemu-img", "snapshot", "-a", tag, disk), "cannot restore the snapshot", timeout_s=60)


def load_file(machine: Machine, tag: str) -> str:
    """Load memory from its file into a QEMU that waits for it, then disks and variables; how."""
    mapped_ram.load(machine, tag)
    _disks_back(machine, tag)  # not sooner: a state that QEMU refuses leaves them as they were
    _put_vars_back(machine, tag)
    return mapped_ram.NAME


def load(machine: Machine, tag: str, progress: Progress = _silent) -> str:
    """Load disks, and memory from one of them, into the machine's QEMU; how."""
    kept = hardware.kept(machine.folder, tag)
    if kept and kept.is_clone:
        _with_all_memory(machine)
    nodes = live_nodes(machine)
    _job(machine, "snapshot-load", {"tag": tag, "vmstate": nodes[0], "devices": nodes}, progress)
    return VMSTATE


def _with_all_memory(machine: Machine) -> None:
    """A clone of a template left its memory out once: QEMU keeps that, and writes it into the state."""
    whole = {**templates.LEAVE_MEMORY_OUT, "state": False}
    machine.execute("migrate-set-capabilities", {"capabilities": [whole]})


def delete(machine: Machine, tag: str, progress: Progress = _silent) -> None:
    """Remove a snapshot; its clusters are free for the guest again."""
    mapped_ram.settle(machine)
    _find(machine, tag)
    if machine.pid() is not None:
        _job(machine, "snapshot-delete", {"tag": tag, "devices": live_nodes(machine)}, progress)
    else:
        for disk in _writable(machine):
            commands.run(
                ("qemu-img", "snapshot", "-d", tag, disk), "cannot remove the snapshot", timeout_s=60
            )
    _forget(machine, tag)


def _forget(machine: Machine, tag: str) -> None:
    """Remove what is kept beside the disks for a snapshot."""
    _vars_copy(machine, tag).unlink(missing_ok=True)
    mapped_ram.file(machine.folder, tag).unlink(missing_ok=True)
    hardware.drop(machine, tag)


def _find(machine: Machine, tag: str) -> Snapshot:
    for one in listed(machine):
        if one.tag == tag:
            return one
    name = machine.folder.name
    raise NotFound("no snapshot", repr(tag), f"{name} has none of that name", f"vmm snapshot ls {name}")


def _job(machine: Machine, command: str, arguments: dict[str, Any], progress: Progress) -> None:
    """Run a job of QEMU to its end, one at a time: that of a killed command goes on without it."""
    deadline = time.monotonic() + JOB_S
    _clear(machine, deadline)
    job = f"{command}-{arguments['tag']}"
    machine.execute(command, {"job-id": job, **arguments})
    try:
        ended = _ended(machine, job, deadline, progress)
    except DeadlinePassed:
        raise DeadlinePassed(f"{command} of", machine.folder.name, f"not done after {JOB_S:g} s") from None
    _clear(machine, deadline)
    if ended.get("error"):
        raise _refused(machine, command, ended["error"])


def _refused(machine: Machine, command: str, words: str) -> CommandFailed:
    """The error of a job; QEMU tells of a full file system no more than that it could not write."""
    hint = ""
    if command == "snapshot-load":
        hint = "memory, processors and devices must be those that it had when the snapshot was taken"
    else:
        free = min(_free_bytes(Path(disk)) for disk in _disks(machine))
        if free < machine.spec.memory_bytes:
            words += f"\nonly {format_bytes(free)} are free where its disk lies"
            hint = "free space on the host, then take it again; the machine goes on meanwhile"
    return CommandFailed(f"{command} of {machine.folder.name} failed", [command], 1, words, hint)


def _free_bytes(path: Path) -> int:
    told = os.statvfs(path)
    return told.f_bavail * told.f_frsize


def _clear(machine: Machine, deadline: float) -> None:
    """Wait for snapshot jobs that still run, and take the ended ones off QEMU's list."""
    for one in machine.execute("query-jobs"):
        if str(one["type"]).startswith("snapshot-"):
            _ended(machine, one["id"], deadline, lambda done, total: None)
            with contextlib.suppress(Failure):
                machine.execute("job-dismiss", {"id": one["id"]})


def _ended(machine: Machine, job: str, deadline: float, progress: Progress) -> dict[str, Any]:
    while True:
        found = [one for one in machine.execute("query-jobs") if one["id"] == job]
        if not found or found[0]["status"] == "concluded":
            return found[0] if found else {}
        progress(found[0]["current-progress"], found[0]["total-progress"])
        if time.monotonic() > deadline:
            raise DeadlinePassed("the job of", machine.folder.name, f"{job} goes on and on")
        time.sleep(0.02)


def _disks(machine: Machine) -> list[str]:
    return [disk.path for disk in machine.spec.disks if disk.format == "qcow2" and not disk.read_only]


def _writable(machine: Machine) -> list[str]:
    disks = _disks(machine)
    other = [d.path for d in machine.spec.disks if d.format != "qcow2" and not d.read_only and not d.cdrom]
    if other or not disks:
        why = f"{(other or ['none'])[0]} is no qcow2"
        hint = "vmm image convert makes one; or clone it as a whole"
        raise Unsupported("no snapshots for the disks of", machine.folder.name, why, hint)
    return disks


def _inserted(machine: Machine) -> list[dict[str, Any]]:
    _writable(machine)
    found = machine.execute("query-block")
    return [
        one for one in found if one.get("inserted", {}).get("drv") == "qcow2" and not one["inserted"]["ro"]
    ]


def live_nodes(machine: Machine) -> list[str]:
    """QEMU's node names of the writable qcow2 disks: each driver names them its own way."""
    return [str(one["inserted"]["node-name"]) for one in _inserted(machine)]


def _live_devices(machine: Machine) -> list[str]:
    return [str(one["inserted"]["node-name"]) for one in _inserted(machine)]


def _vars_copy(machine: Machine, tag: str) -> Path:
    return machine.folder / f"vars-{tag}.fd"


def _keep_vars(machine: Machine, tag: str) -> None:
    if machine.spec.firmware_vars:
        shutil.copyfile(machine.spec.firmware_vars, _vars_copy(machine, tag))


def _put_vars_back(machine: Machine, tag: str) -> None:
    if machine.spec.firmware_vars and _vars_copy(machine, tag).exists():
        shutil.copyfile(_vars_copy(machine, tag), machine.spec.firmware_vars)


def _drop_strays(machine: Machine) -> None:
    """What a killed command kept for a snapshot which it never took; a job of QEMU's goes on without it."""
    if machine.pid() is not None:
        _clear(machine, time.monotonic() + JOB_S)
    mapped_ram.settle(machine)
    known = {one.tag for one in listed(machine)}
    begun = {path.stem.removeprefix("vars-") for path in machine.folder.glob("vars-*.fd")}
    begun |= {path.stem.removeprefix("memory-") for path in machine.folder.glob("memory-*.ram")}
    for tag in (begun | hardware.tags(machine.folder)) - known:
        _forget(machine, tag)
