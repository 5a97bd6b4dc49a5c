"""A running machine's memory kept in a file of its own, in QEMU's mapped-ram form (QEMU 9.0 and later).

Every page has its place in the file, so it grows no larger than the memory, is written in one go, and can be
read from any place (docs/devel/migration/mapped-ram.rst). The disks are kept inside themselves, as always.
The guest stands still until all is written, and QEMU would not let it go on by itself: a process of our own
does, should the command be killed.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from host import commands, guard, records
from host.errors import BadData, DeadlinePassed, Failure, NotFound, Unsupported, WrongState
from host.sizes import format_bytes
from vmm import diagnosis, process, stream

if TYPE_CHECKING:
    from vmm.machine import Machine
    from vmm.monitor import Monitor

NAME = "mapped-ram"
_LIMIT_S = 600.0
_PAUSE_S = 0.005
_LEFT_TO_END_S = 10.0


def why_not(machine: Machine) -> str:
    """Why the running machine's memory cannot be kept this way, or an empty string."""
    if machine.spec.driver != "qemu":
        return "libvirt owns its monitor"
    if not records.is_free(
        machine.folder
    ):  # `vmm run` holds it: coming back is a new QEMU, and the old one's end would be the command's
        return "a command in another terminal lives with this QEMU"
    if NAME not in _capabilities(machine):
        return "this QEMU knows no mapped-ram"
    if machine.execute("query-status")["status"] != "running":
        return "it is paused, and QEMU gives its disks back to a guest that goes on only"
    if any(one["name"].startswith("hot-") for one in machine.execute("qom-list", {"path": _PLUGGED})):
        return "a device was plugged in, which a new QEMU would not have at its place"
    return ""


_PLUGGED = "/machine/peripheral"


def _capabilities(machine: Machine) -> set[str]:
    return {str(one["capability"]) for one in machine.execute("query-migrate-capabilities")}


def file(folder: Path, tag: str) -> Path:
    """Where a snapshot's memory and devices are kept."""
    return folder / f"memory-{tag}.ram"


def unfinished(folder: Path) -> dict[str, Path]:
    """The files of snapshots that were begun and never done, by their names."""
    found = folder.glob("memory-*.ram.new")
    return {path.name.removeprefix("memory-").removesuffix(".ram.new"): path for path in found}


def save(machine: Machine, tag: str, nodes: list[str], progress: Callable[[int, int], None]) -> int:
    """Keep disks, memory and devices under a name while the guest stands still; the bytes of the file.

    `nodes` are QEMU's names of the disks. Raises Failure with QEMU's words; the guest goes on then, too, and
    nothing is left.
    """
    new = file(machine.folder, f"{tag}").with_suffix(".ram.new")
    with guard.guarded(lambda: settle(machine)):
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with machine.driver.control() as monitor:
                _write(monitor, fd, tag, nodes, progress)
            os.fdatasync(fd)
            size_bytes = os.fstat(fd).st_size
            new.rename(file(machine.folder, tag))
        except BaseException:
            settle(machine)
            raise
        finally:
            os.close(fd)
    return size_bytes


def _write(
    monitor: Monitor, fd: int, tag: str, nodes: list[str], progress: Callable[[int, int], None]
) -> None:
    _set(monitor, {**_to_file(True), "x-ignore-shared": False})
    monitor.execute("migrate-set-parameters", {"max-bandwidth": stream.FULL_SPEED})
    uri = _lend(monitor, fd)
    monitor.execute("stop")  # with it QEMU has written all of the disks
    data = [{"device": node, "name": tag} for node in nodes]
    actions = [{"type": "blockdev-snapshot-internal-sync", "data": one} for one in data]
    monitor.execute("transaction", {"actions": actions}, 60.0)
    monitor.execute("migrate", {"uri": uri})
    stream.await_sent(monitor, "cannot keep the memory of", _LIMIT_S, lambda told: _tell(told, progress))
    monitor.execute("cont")
    _set(monitor, _to_file(False))  # QEMU keeps them, and no other migration goes to a file


def _tell(told: dict[str, Any], progress: Callable[[int, int], None]) -> None:
    if ram := told.get("ram"):
        progress(ram["total"] - ram["remaining"], ram["total"])


def _to_file(on: bool) -> dict[str, bool]:
    """What both sides have on: with multifd two threads write and read, in half the time of one."""
    return {NAME: on, "multifd": on}


def _lend(monitor: Monitor, fd: int) -> str:
    """The address of our open file for QEMU, whose own user may open nothing in our folder."""
    return f"file:/dev/fdset/{monitor.execute('add-fd', fd=fd)['fdset-id']}"


def _set(monitor: Monitor, states: dict[str, bool]) -> None:
    named = [{"capability": name, "state": state} for name, state in states.items()]
    monitor.execute("migrate-set-capabilities", {"capabilities": named})


def settle(machine: Machine) -> None:
    """Undo snapshots that were begun and never done: the guest goes on, and disks and folder lose them."""
    for tag, path in unfinished(machine.folder).items():
        if machine.pid() is None:
            _forget_stopped(machine, tag)
        else:
            _forget_running(machine, tag)
        path.unlink(missing_ok=True)


def _forget_stopped(machine: Machine, tag: str) -> None:
    for disk in machine.spec.disks:
        if disk.format == "qcow2" and not disk.read_only:
            with contextlib.suppress(Failure):  # it had not come so far
                commands.run(("qemu-img", "snapshot", "-d", tag, disk.path), "cannot undo", timeout_s=60)


def _forget_running(machine: Machine, tag: str) -> None:
    with machine.driver.control() as monitor:
        # QEMU 10.0 was seen to end, guest and all, as its threads were called back from the file (SIGSEGV,
        # 1 time in 60). What is under way mostly needs less than a second more.
        stream.call_back(monitor, _LEFT_TO_END_S)
        if monitor.execute("query-status")["status"] in ("paused", "postmigrate"):
            monitor.execute("cont")
        _set(monitor, _to_file(False))
        for one in monitor.execute("query-block"):
            inserted = one.get("inserted") or {}
            if any(kept["name"] == tag for kept in inserted.get("image", {}).get("snapshots", ())):
                words = {"device": inserted["node-name"], "name": tag}
                monitor.execute("blockdev-snapshot-delete-internal-sync", words, 60.0)


# ---- back ----


def check(machine: Machine, tag: str, size_bytes: int) -> None:
    """Refuse a file that cannot be what was written; raises NotFound, BadData."""
    path = file(machine.folder, tag)
    what = f"cannot restore the snapshot {tag!r} of"
    if not path.exists():
        raise NotFound(what, machine.folder.name, f"{path} with its memory is gone", "vmm snapshot rm it")
    found = path.stat().st_size
    if found != size_bytes:
        why = f"{path} has {format_bytes(found)}, {format_bytes(size_bytes)} were written"
        raise BadData(what, machine.folder.name, why, "vmm snapshot rm it")


def check_qemu(machine: Machine) -> None:
    """Refuse where the QEMU that a start would take cannot read such a file; raises Unsupported."""
    from vmm import offers

    qemu = machine.here().qemu
    if not offers.of(qemu).mapped_ram:
        raise unreadable(machine.folder.name)


def unreadable(name: str) -> Unsupported:
    """The error for a QEMU without mapped-ram."""
    why = "its memory was kept by a QEMU that has mapped-ram, which this one has not"
    return Unsupported("cannot restore the memory of", name, why, "a QEMU of 9.0 or later restores it")


def load(machine: Machine, tag: str) -> None:
    """Let a QEMU that was started for it take memory and devices in.

    Its processors and its disks stay untouched until `cont`. Raises Unsupported for a QEMU without
    mapped-ram, Failure with QEMU's words, which ends then.
    """
    if NAME not in _capabilities(machine):
        raise unreadable(machine.folder.name)
    pid = machine.pid()
    fd = os.open(file(machine.folder, tag), os.O_RDONLY | os.O_CLOEXEC)
    try:
        with machine.driver.control() as monitor:
            _set(monitor, {**_to_file(True), "late-block-activate": True})
            monitor.execute("migrate-incoming", {"uri": _lend(monitor, fd)})
            _await_read(monitor)
            _set(monitor, {**_to_file(False), "late-block-activate": False})
    except WrongState:  # it hung up: a QEMU that cannot read a state ends
        if pid is None or not _is_gone(pid):
            raise
        raise diagnosis.ended(machine.folder.name, machine.folder, process.reap(pid)) from None
    finally:
        os.close(fd)


def _is_gone(pid: int) -> bool:
    try:
        process.wait_gone(pid, 2.0)
    except DeadlinePassed:
        return False
    return True


def _await_read(monitor: Monitor) -> None:
    deadline = time.monotonic() + _LIMIT_S
    while monitor.execute("query-status")["status"] == "inmigrate":
        if time.monotonic() > deadline:
            raise DeadlinePassed("cannot restore the memory of", monitor.name, f"after {_LIMIT_S:g} s")
        time.sleep(_PAUSE_S)
