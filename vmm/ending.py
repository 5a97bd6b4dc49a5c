"""The end of a machine: asked for, then forced, and how it ended kept where the guest could not say so."""

from __future__ import annotations

import contextlib
import signal
import time
from typing import TYPE_CHECKING

from host.errors import DeadlinePassed, Failure, Unsupported
from vmm import access, process

if TYPE_CHECKING:
    from vmm.machine import Machine

_KILLED = 137
_LAST_WORDS_S = 3.0
_FOR_EVER_S = 10 * 365 * 86400.0


def stop(machine: Machine, time_s: float) -> str:
    """Ask the command (or the guest's init) to end, wait `time_s`, then pull the plug.

    The answer says why asking was not enough, or is empty.
    """
    pid = machine.pid()
    if pid is None:
        machine.driver.release()
        return ""
    why = "its QEMU did not answer"
    if _answers(machine, time_s):
        why = _end_softly(machine, pid, time_s)
    else:
        _note_status(machine, _KILLED)
    machine.driver.kill()
    machine.driver.release()
    # after 0 s nobody was asked
    return f"{machine.folder.name}: killed after {time_s:g} s, as {why}" if why and time_s > 0 else ""


def _answers(machine: Machine, time_s: float) -> bool:
    """Whether QEMU answers within the time that the guest would have had to end."""
    deadline = time.monotonic() + time_s
    while machine.driver.state() == "unresponsive":
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)
    return True


def _end_softly(machine: Machine, pid: int, time_s: float) -> str:
    try:
        unheard = _ask_to_end(machine)
    except Failure as error:
        unheard = f"it could not be asked to end: {error}"
    try:
        process.wait_gone(pid, time_s)
        _note_status(machine, None if machine.spec.command_mode else 0)
        return ""
    except DeadlinePassed:
        _end_hard(machine, pid)
        _note_status(machine, _KILLED)
        return unheard


def _ask_to_end(machine: Machine) -> str:
    """Ask in the way that this machine hears; what it means when it runs on all the same."""
    if machine.driver.state() == "paused":
        machine.driver.resume()
    if machine.spec.command_mode:
        with machine.channel() as channel:
            channel.signal_main(signal.SIGTERM)
        return "its command went on after SIGTERM"
    if access.has_helper(machine):
        with contextlib.suppress(Failure), machine.channel() as channel:
            channel.poweroff()
            return "its init was told to power off and did not get there"
    machine.driver.press_power()
    return "its guest did not power off when its ACPI power button was pressed"


def _end_hard(machine: Machine, pid: int) -> None:
    """Kill the command inside first, so that its status is told and its files are written."""
    if not machine.spec.command_mode:
        return
    with contextlib.suppress(Failure), machine.channel() as channel:
        channel.signal_main(signal.SIGKILL)
        process.wait_gone(pid, _LAST_WORDS_S)


def _note_status(machine: Machine, status: int | None) -> None:
    if status is not None and machine.status() is None:
        (machine.folder / "status").write_text(f"exit {status}\n")


def kill(machine: Machine, number: int) -> None:
    """KILL pulls the plug; another signal goes to the command of a machine in command mode."""
    if number == signal.SIGKILL:
        machine.driver.kill()
        _note_status(machine, _KILLED)
        machine.driver.release()
    elif machine.spec.command_mode:
        with machine.channel() as channel:
            channel.signal_main(number)
    else:
        hint = "vmm stop asks it to end, vmm kill pulls the plug, vmm exec NAME kill ... works inside"
        raise Unsupported("a machine in system mode takes no signal but KILL", machine.folder.name, hint=hint)


def wait(machine: Machine, timeout_s: float | None) -> int:
    """Wait until the machine has ended; the status of its command, 137 where it was killed."""
    pid = machine.pid()
    if pid is not None:
        process.wait_gone(pid, _FOR_EVER_S if timeout_s is None else timeout_s)
    status = machine.status()
    if status is not None:
        return status
    return _KILLED if machine.spec.command_mode else 0
