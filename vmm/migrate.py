"""Moving a running machine to a fresh QEMU on this host: by live migration, while the guest goes on.

The second QEMU listens in a run directory of its own (`.move-NAME`) and stands still until all is over; then
it goes on, the first one ends, and the directory takes the machine's name. Up to that point a failure leaves
the first QEMU as it was. What a killed command left is settled by its guard, and where that was killed too by
the next command that ends or resumes the machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from host import guard
from host.edges import Edges
from host.errors import Failure, Unsupported, WrongState
from host.linux.cgroup import Cgroup
from vmm import confine, forwards, holes, launch, ports, process, stream
from vmm.monitor import Monitor
from vmm.qemu_driver import QemuDriver
from vmm.spec import Forward, MachineSpec, replace

if TYPE_CHECKING:
    from vmm.machine import Machine

# In the new run directory:
_RUNS = "runs"  # there where the guest ran, and has to go on after a failure
_MARK = "moved"  # there once the guest may have gone on in the second QEMU; it holds the forwards
_LIMIT_S = 3600.0


class Moved(NamedTuple):
    """How long the guest stood still, how long all took, and what went over."""

    downtime_s: float
    total_s: float
    bytes: int


class _Target(QemuDriver):
    """The second QEMU of the same folder: it adds nothing there, and shares the first one's cgroup."""

    def _lay_out(self, who: confine.Confinement) -> None:
        path, memory = self.run / "pid", self.folder / "memory"
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
        who.give(path, 0o644)
        if memory.exists():
            who.give(memory)

    def _join_cgroup(self, pid: int) -> None:
        with contextlib.suppress(Failure, OSError):
            Cgroup(self.cgroup_name).add(pid)

    def release(self) -> None:
        """Remove its sockets alone: cgroup and networks are the machine's."""
        _remove(self.run)


def place(run: Path) -> Path:
    """The run directory of the second QEMU."""
    return run.parent / f".move-{run.name}"


def why_not(spec: MachineSpec) -> str:
    """Why this machine cannot be moved, or an empty string."""
    if spec.driver != "qemu":
        return "libvirt refuses to migrate within one host"
    if spec.shares or spec.tpm or any(nic.kind == "network" for nic in spec.nics):
        return "a shared folder, a TPM or a card on a bridge cannot be in two QEMUs at once"
    return ""


def migrate(machine: Machine, bytes_per_s: int = stream.FULL_SPEED) -> Moved:
    """Move the running machine to a fresh QEMU, at most so fast; what it cost.

    Raises Unsupported for what cannot be in two QEMUs, WrongState where it does not run, Failure where the
    migration failed: the machine goes on where it was.
    """
    refused = why_not(machine.spec)
    if refused:
        raise Unsupported("cannot migrate", machine.folder.name, refused, "stop it, start it elsewhere")
    source = machine.driver
    if source.pid() is None:
        raise WrongState("cannot migrate", machine.folder.name, "it does not run", "nothing is to be moved")
    settle(source)
    with guard.guarded(lambda: settle(source)):
        return _migrate(machine, source, bytes_per_s)


def _migrate(machine: Machine, source: QemuDriver, bytes_per_s: int) -> Moved:
    began, frozen = time.monotonic(), holes.memory_of(source.pid())
    given = _forwards(source)
    bare = machine.spec.nics and (replace(machine.spec.nics[0], forwards=()), *machine.spec.nics[1:])
    target = _Target(machine.folder, place(source.run), replace(machine.spec, nics=tuple(bare)))
    with source.control() as ours:
        running = ours.execute("query-status")["status"] == "running"
        boot = _listening(target, machine.accelerator(), ours)
        try:
            assert boot.monitor is not None
            if running:
                (target.run / _RUNS).touch()
            told = stream.hand_over(ours, boot.monitor, "cannot migrate", _LIMIT_S, bytes_per_s)
            stopped = time.monotonic()
            (target.run / _MARK).write_text(json.dumps([list(one) for one in given]))
            if running:
                boot.monitor.execute("cont")
            late_s = time.monotonic() - stopped
        except BaseException as error:
            _undo(ours, target)
            if isinstance(error, Failure):
                error.hint = error.hint or "the machine goes on where it was"
            raise
        finally:
            boot.close()
    _finish(source, target)
    holes.give_back(frozen)
    downtime_s = told.get("downtime", 0) / 1000 + late_s
    return Moved(downtime_s, time.monotonic() - began, int(told.get("ram", {}).get("transferred", 0)))


def _forwards(source: QemuDriver) -> tuple[Forward, ...]:
    on_user = any(nic.kind == "user" for nic in source.spec.nics)
    return forwards.listed(source) if on_user else ()


def _listening(target: _Target, accel: str, source: Monitor) -> Any:
    how = replace(launch.here(target.run, target.folder, accel, target.spec.arch), incoming=True, paused=True)
    how = replace(how, ports=ports.plugged(source, target.spec))
    if any(one.get("id") == "ram" for one in source.execute("query-memdev")):  # a clone's, called by its name
        how = how.on_empty_file(target.spec.memory_bytes)
    return target.boot(accel, Edges(), False, how)


def _undo(source: Monitor, target: _Target) -> None:
    """End the second QEMU and let the first go on, in this order: both cannot hold the disk's lock."""
    pid = target.pid()
    if pid is not None:
        process.end(pid)
    stream.call_back(source)  # the first notices by itself, but not at once
    if (target.run / _RUNS).exists() and source.execute("query-status")["status"] != "running":
        source.execute("cont")
    target.release()


def settle(driver: QemuDriver, goes_on: bool = True) -> None:
    """Finish or undo what a killed migration left of the machine; nothing to do as a rule.

    A QEMU that is about to be killed need not go on, nor answer.
    """
    there = place(driver.run)
    if not there.exists():
        return
    target = _Target(driver.folder, there, driver.spec)
    pid = target.pid()
    if pid is not None and (there / _MARK).exists() and target.state() != "paused":
        _finish(driver, target)
    elif goes_on and driver.pid() is not None:
        with driver.control() as source:
            _undo(source, target)
    else:
        if pid is not None:
            process.end(pid)
        target.release()


def _finish(source: QemuDriver, target: _Target) -> None:
    """End the first QEMU, which holds nothing any more, and give the second one its place and ports."""
    pid = source.pid()
    if pid is not None:
        process.end(pid)
    given = [Forward(*one) for one in json.loads((target.run / _MARK).read_text() or "[]")]
    for name in ("ready", "ssh-port", "qmp"):
        with contextlib.suppress(FileNotFoundError):
            (source.run / name).rename(target.run / name)
    for mark in (_MARK, _RUNS):
        (target.run / mark).unlink(missing_ok=True)
    _remove(source.run)
    target.run.rename(source.run)
    source._boot = None
    for one in given:
        forwards.add(source, one)


def _remove(run: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        for path in run.iterdir():
            path.unlink()
        run.rmdir()
