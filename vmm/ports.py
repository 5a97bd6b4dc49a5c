"""The virtio-serial ports of a machine: those it is born with, and others, plugged in once they are wanted.

QEMU's virtio-mmio offers each queue with 1024 places (hw/virtio/virtio-mmio.c, QueueNumMax), and Linux fills
the receive queue of every port, a page a place (drivers/char/virtio_console.c, fill_queue): 4 MiB a port,
zeroed and posted one by one while a microvm boots. So it is born with its owner's channel alone. Over PCI a
queue has 128 places, and a machine has from birth all that it may need.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from host import records
from host.errors import Failure
from vmm import process
from vmm.launch import CHANNELS

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from vmm.monitor import Monitor
    from vmm.qemu_driver import QemuDriver
    from vmm.spec import MachineSpec

# What a command says when nobody listens, and its status, which QEMU itself writes into files.
FILES = ("log", "status")
_REMOVED_S = 2.0
_AGENT = "org.qemu.guest_agent.0"
# A port's number is a part of the devices' state, so it must not depend on the order of plugging; 0 is kept
# for a console (virtser_port_device_realize).
_NUMBERS = {name: number for number, name in enumerate((*CHANNELS, *FILES, "agent"), start=1)}
# Each port that might be costs a microvm two queues with 1024 places, whether it is there or not.
MOST = len(_NUMBERS) + 1


def on_demand(spec: MachineSpec) -> bool:
    """Whether the machine gets its further ports only when they are wanted."""
    return spec.boot == "microvm" and spec.driver == "qemu"


def born(spec: MachineSpec) -> tuple[str, ...]:
    """The names of the ports that a machine has from its birth."""
    files = FILES if spec.command_mode else ()
    agent = ("agent",) if spec.agent else ()
    return (CHANNELS[0], *agent) if on_demand(spec) else (*CHANNELS, *files, *agent)


def frozen(spec: MachineSpec) -> tuple[str, ...]:
    """The names of the ports that a template is made with; empty: those of its birth.

    What a detached clone writes to is among them: queues plugged in later would be each clone's own memory.
    """
    return (*born(spec), *FILES) if on_demand(spec) and spec.command_mode else ()


def properties(spec: MachineSpec, name: str) -> dict[str, Any]:
    """One port as QEMU's device: what `-device` and `device_add` are told of it."""
    shown = _AGENT if name == "agent" else f"vmm.{name}"
    given = {"nr": _NUMBERS[name], "id": f"port-{name}"} if on_demand(spec) else {}
    return {"driver": "virtserialport", "bus": "ports.0", **given, "chardev": name, "name": shown}


def claim(run: Path, name: str, wait_s: float = 0.0) -> AbstractContextManager[int]:
    """The right to speak on a channel, which serves one client; DeadlinePassed where another has it."""
    return records.lock(run / f"{name}.lock", wait_s)


def plugged(monitor: Monitor, spec: MachineSpec) -> tuple[str, ...]:
    """The names of the ports that the running machine has by now; empty where those of birth are all."""
    if not on_demand(spec):
        return ()
    labels = {one["label"] for one in monitor.execute("query-chardev")}
    return tuple(name for name in _NUMBERS if name in labels)


def of(driver: QemuDriver) -> tuple[str, ...]:
    """The same of a machine to whose monitor nobody speaks just now."""
    if not on_demand(driver.spec):
        return ()
    with driver.control() as monitor:
        return plugged(monitor, driver.spec)


def plug(driver: QemuDriver, *names: str) -> None:
    """Give the running machine these ports, where it has them not yet; its helper hears of them."""
    names = tuple(name for name in names if name in FILES or not (driver.run / name).exists())
    if not names or not on_demand(driver.spec):
        return
    with driver.control() as monitor:
        there = plugged(monitor, driver.spec)
        for name in names:
            if name in CHANNELS:
                _plug_channel(monitor, driver, name, name in there)
            elif name not in there:
                out = {"type": "file", "data": {"out": str(driver.folder / name), "append": name == "log"}}
                _add(monitor, driver.spec, name, out)


def _plug_channel(monitor: Monitor, driver: QemuDriver, name: str, half_made: bool) -> None:
    """A channel, whose socket gets its name once the port is there: what has the name can be spoken to."""
    if half_made:  # by a command that was killed
        _remove(monitor, name)
    hidden = f".{name}"
    listener = process.listen(driver.run, [hidden])[hidden]
    with listener:
        monitor.execute("getfd", {"fdname": name}, fd=listener.fileno())
    where = {"type": "fd", "data": {"str": name}}
    try:
        data = {"addr": where, "server": True, "wait": False}
        _add(monitor, driver.spec, name, {"type": "socket", "data": data})
    except BaseException:
        (driver.run / hidden).unlink()
        raise
    (driver.run / hidden).rename(driver.run / name)


def _add(monitor: Monitor, spec: MachineSpec, name: str, backend: dict[str, Any]) -> None:
    monitor.execute("chardev-add", {"id": name, "backend": backend})
    try:
        monitor.execute("device_add", properties(spec, name))
    except BaseException:
        _remove(monitor, name)
        raise


def _remove(monitor: Monitor, name: str) -> None:
    with contextlib.suppress(Failure):
        monitor.execute("device_del", {"id": f"port-{name}"})
    until = time.monotonic() + _REMOVED_S
    while time.monotonic() < until:  # the device lets go of its chardev one RCU grace period later
        try:
            monitor.execute("chardev-remove", {"id": name})
            return
        except Failure:
            time.sleep(0.01)
