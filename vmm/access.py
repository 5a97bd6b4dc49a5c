"""Ways into a running machine, tried in order: our helper, SSH, the QEMU guest agent, a shell on the console.

A way that cannot be entered is told and the next one tried; once a command has begun, its way is final.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from host.errors import Failure, Unsupported
from host.exec_request import ExecRequest
from host.stdio import Stdio

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from vmm.machine import Machine

Run = Callable[[ExecRequest, Stdio], int]


class Way(NamedTuple):
    """A way in: why a machine has it not (empty: it has), and how to enter; what it yields runs a command."""

    name: str
    why_not: Callable[[Machine], str]
    enter: Callable[[Machine], AbstractContextManager[Run]]


def execute(machine: Machine, request: ExecRequest, stdio: Stdio, first_only: bool = False) -> int:
    """Run a command by the first way that lets us in (`first_only`: by the first or none); its status.

    Says on stderr where it had to go another way than the machine's first. Raises Unsupported that tells
    every way tried.
    """
    able = ways(machine)[: 1 if first_only else None]
    shut: list[str] = []
    for way in able:
        with contextlib.ExitStack() as stack:
            try:
                run = stack.enter_context(way.enter(machine))
            except (Failure, OSError) as error:
                if getattr(error, "final", False) or len(able) == 1:
                    raise
                shut.append(f"{way.name}: {error}")
                continue
            if shut:
                sys.stderr.write(f"vmm: {machine.folder.name}: by {way.name}, for {'; '.join(shut)}\n")
            return run(request, stdio)
    name = machine.folder.name
    why = "; ".join(shut) or "it has neither helper, nor SSH key, nor guest agent"
    raise Unsupported("no way into", name, why, f"vmm console {name} is its serial port")


def ways(machine: Machine) -> list[Way]:
    """The ways that this machine has, in the order in which they are tried."""
    return [way for way in _WAYS if not way.why_not(machine)]


def explained(machine: Machine) -> list[str]:
    """Every way in with what speaks against it, one a line."""
    return [f"{way.name}: {way.why_not(machine) or 'yes'}" for way in _WAYS]


# ---- the helper ----


def has_helper(machine: Machine) -> bool:
    """Whether our helper came with the guest's kernel."""
    return bool(machine.spec.kernel and machine.spec.root)


@contextlib.contextmanager
def _helper(machine: Machine) -> Iterator[Run]:
    with machine.channel() as channel:
        yield channel.run


# ---- the others, loaded when they are wanted ----


def _no_ssh(machine: Machine) -> str:
    from vmm import ssh

    return ssh.why_not(machine)


def _ssh(machine: Machine) -> AbstractContextManager[Run]:
    from vmm import ssh

    return ssh.enter(machine)


def _agent(machine: Machine) -> AbstractContextManager[Run]:
    from vmm import agent

    return agent.enter(machine)


def _console(machine: Machine) -> AbstractContextManager[Run]:
    from vmm import console_shell

    return console_shell.enter(machine)


_WAYS = (
    Way("guest helper", lambda m: "" if has_helper(m) else "the guest boots without it", _helper),
    Way("ssh", _no_ssh, _ssh),
    Way("guest agent", lambda m: "" if m.spec.agent else "the machine has no port for it", _agent),
    Way("serial console", lambda m: "it belongs to the command" if m.spec.command_mode else "", _console),
)
