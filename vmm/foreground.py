"""A machine that lives as long as the command that started it: run, pass everything on, end it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from host.edges import Edges
from host.errors import DeadlinePassed
from host.stdio import Stdio
from vmm import admission, bringup, process

if TYPE_CHECKING:
    from vmm.boot import Boot
    from vmm.channel import Channel
    from vmm.machine import Machine

_POWEROFF_S = 15.0
_DEATH_S = 10.0


def run(machine: Machine, stdio: Stdio, edges: Edges) -> int:
    """Start the machine, see its command (or its console) through, take it down; the command's status."""
    boot = bringup.boot(machine, edges, dies_with_us=True)
    try:
        if machine.spec.command_mode:
            status = _command(machine, boot, stdio, edges)
        else:
            if boot.cloned:
                bringup.helper(machine, boot)
            status = _console_until_end(machine, boot, stdio, edges)
    finally:
        if machine.spec.ephemeral and machine.spec.driver == "qemu":
            boot.end(_DEATH_S)
        boot.close()
        machine.driver.kill()
        machine.driver.release()
    edges.mark("t9")
    return status


def _command(machine: Machine, boot: Boot, stdio: Stdio, edges: Edges) -> int:
    channel = bringup.told(machine, boot)
    with _log(machine) as log:

        def on_output(stream: int, data: bytes) -> None:
            edges.mark("t8")
            if log is not None:
                log(stream, data)

        status = _converse(machine, boot, channel, stdio, on_output)
    if not machine.spec.ephemeral:
        (machine.folder / "status").write_text(f"exit {status}\n")
        _power_off(boot, channel)
    return status


def _converse(machine: Machine, boot: Boot, channel: Channel, stdio: Stdio, on_output: Any) -> int:
    from vmm import frames
    from vmm.channel import HungUp

    request = bringup.main_request(machine.spec, stdio)
    try:
        id_ = channel.begin(request, frames.MAKE_CWD)
        boot.await_helper(admission.boot_timeout_s())
        boot.leave_monitor()  # QEMU serves one client at a time: pause, or the port of an exec, must get in
        return channel.run(request, stdio, begun=id_, on_output=on_output)
    except HungUp:
        from vmm import diagnosis

        raise diagnosis.cut_off(machine.folder.name, machine.folder) from None


@contextlib.contextmanager
def _log(machine: Machine) -> Iterator[Callable[[int, bytes], object] | None]:
    """What keeps the command's output, a record a piece; a machine that goes with its command keeps none."""
    if machine.spec.ephemeral:
        yield None
        return
    from vmm import records

    fd = os.open(machine.folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        yield lambda stream, data: os.write(fd, records.encode(stream, time.time_ns(), data))
    finally:
        os.close(fd)


def _power_off(boot: Boot, channel: Channel) -> None:
    """The guest's own end, so that its file system is whole; the caller kills what is left."""
    channel.poweroff()
    with contextlib.suppress(DeadlinePassed):
        process.wait_gone(boot.pid, _POWEROFF_S)


def _console_until_end(machine: Machine, boot: Boot, stdio: Stdio, edges: Edges) -> int:
    from vmm import console

    boot.close()
    console.attach(machine.run_dir / "serial", stdio, on_output=lambda: edges.mark("t4"))
    return 0
