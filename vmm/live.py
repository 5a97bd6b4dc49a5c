"""Cloning a running machine: its memory goes over to a second QEMU, its disk is copied, and both go on.

The machine stands still from the copy of its disk until its memory has been handed over. It needs no
preparation at birth and shares nothing with its clone afterwards; a template is the way to many clones that
share memory.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from host import commands, guard, paths
from host.edges import Edges
from host.errors import Unsupported, WrongState
from host.exec_request import ExecRequest
from host.stdio import Stdio
from vmm import clones, holes, launch, ports, stream
from vmm.admission import boot_timeout_s
from vmm.boot import Boot
from vmm.channel import Channel
from vmm.freeze import FORGET_KEYS
from vmm.machine import Machine
from vmm.monitor import Monitor
from vmm.qemu_driver import QemuDriver
from vmm.spec import MachineSpec, replace


def why_not(spec: MachineSpec) -> str:
    """Why this machine cannot be cloned while it runs, or an empty string."""
    if spec.driver != "qemu":
        return "libvirt owns its monitor"
    if spec.shares or spec.tpm or any(nic.kind == "network" for nic in spec.nics):
        return "a shared folder, a TPM or a card on a bridge cannot be in two machines at once"
    if not spec.kernel:
        return "it has no guest helper that could give the clone an identity of its own"
    if any(disk.format != "qcow2" for disk in spec.disks if not disk.read_only):
        return "its disk is not qcow2"
    return ""


def clone(source: Machine, folder: Path, run: Path, spec: MachineSpec) -> float:
    """Make the machine of `folder` go on from where `source` is; the seconds for which `source` stood still.

    `spec` is the source's, with name, paths and ports of the clone. Raises WrongState where the source does
    not run, Unsupported where it holds something that cannot be doubled.
    """
    refused = why_not(source.spec)
    if refused:
        hint = f"vmm stop {source.folder.name}, then vmm clone without --live"
        raise Unsupported("cannot clone the running machine", source.folder.name, refused, hint)
    driver = source.driver
    if driver.pid() is None:
        raise WrongState("cannot clone", source.folder.name, "it does not run", "leave --live out")
    target = QemuDriver(folder, run, spec)
    if not spec.command_mode:
        with source.channel() as channel:  # while it runs: a command takes its time in the guest
            channel.run(ExecRequest(("/bin/sh", "-c", f"cp /run/sshd.pid {clones.SSHD_PID} 2>&-")), Stdio())
    with guard.guarded(lambda: _let_go(driver, target)), driver.control() as monitor:
        began = time.monotonic()
        monitor.execute("stop")
        try:
            copy_disks(source.spec, spec)
            boot = _incoming(target, source.accelerator(), spec, monitor)
            try:
                assert boot.monitor is not None
                stream.hand_over(monitor, boot.monitor, "cannot hand over the memory of")
                boot.monitor.execute("cont")  # the state says "paused", as its source was
            except BaseException:
                boot.close()
                target.kill()
                target.release()
                raise
        finally:
            monitor.execute("cont")
        away_s = time.monotonic() - began
    try:
        _renew(boot.await_helper(boot_timeout_s()), boot.monitor, spec)
    finally:
        boot.close()
    holes.give_back(holes.memory_of(driver.pid()))
    return away_s


def _let_go(source: QemuDriver, target: QemuDriver) -> None:
    target.kill()
    target.release()
    go_on(source)


def go_on(source: QemuDriver) -> None:
    """Let a machine go on whose copy was cut off in the middle."""
    if source.pid() is not None:
        with source.control() as monitor:
            stream.call_back(monitor)
            monitor.execute("cont")


def copy_disks(source: MachineSpec, clone_spec: MachineSpec) -> None:
    """Copy what is the machine's own; QEMU has flushed all of it at `stop`, and holes stay holes."""
    for old, new in zip(source.disks, clone_spec.disks, strict=True):
        if old.path != new.path:
            words = ["cp", "--reflink=auto", "--sparse=always", old.path, new.path]
            commands.run(words, "cannot copy the disk", timeout_s=600)
            os.chmod(new.path, 0o644)


def has_backend(source: Monitor) -> bool:
    """Whether the source's memory is the object `ram` (a clone's is): the stream calls memory by its name."""
    return any(one.get("id") == "ram" for one in source.execute("query-memdev"))


def _incoming(target: QemuDriver, accel: str, spec: MachineSpec, source: Monitor) -> Boot:
    how = replace(launch.here(target.run, target.folder, accel, spec.arch), incoming=True)
    how = replace(how, ports=ports.plugged(source, spec))
    if has_backend(source) and not spec.cloneable:
        how = how.on_empty_file(spec.memory_bytes)
    bare = target.spec
    target.spec = clones.unpublished(spec)
    try:
        boot = target.boot(accel, Edges(), False, how)
    finally:
        target.spec = bare
    boot.cloned = True
    return boot


def _renew(channel: Channel, monitor: Monitor | None, spec: MachineSpec) -> None:
    if not spec.command_mode:
        channel.run(ExecRequest(("/bin/sh", "-c", FORGET_KEYS)), Stdio())
    clones.renew(channel, spec)
    channel.settle(boot_timeout_s())
    assert monitor is not None
    clones.open_to_host(monitor, spec)


def spec_of(source: MachineSpec, name: str, uuid: str, folder: Path) -> MachineSpec:
    """The source's spec as its clone's: name, own files; of the ports those that were left to QEMU."""
    own = paths.instances_dir() / source.name
    disks = tuple(
        replace(disk, path=str(folder / Path(disk.path).name)) if Path(disk.path).parent == own else disk
        for disk in source.disks
    )
    free = [tuple(one for one in nic.forwards if not one.host) for nic in source.nics]
    nics = tuple(replace(nic, forwards=some) for nic, some in zip(source.nics, free, strict=True))
    hostname = name.replace("_", "-").replace(".", "-")
    return replace(
        source,
        name=name,
        uuid=uuid,
        hostname=hostname,
        disks=disks,
        nics=nics,
        firmware_vars=str(folder / Path(source.firmware_vars).name) if source.firmware_vars else "",
        seed=str(folder / Path(source.seed).name) if source.seed else "",
        ephemeral=False,
        template="",
    )
