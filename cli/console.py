"""vmm console: the serial console of a machine, on this terminal."""

from __future__ import annotations

import argparse
import sys

from host.errors import Unsupported, WrongState
from host.stdio import Stdio
from instances import kinds, registry


def configure(parser: argparse.ArgumentParser) -> None:
    """The flags of `vmm console`."""
    parser.add_argument("name", metavar="NAME", help="a machine's name or the start of its id")


def main(args: argparse.Namespace) -> int:
    """Join the console until Ctrl-] or its end."""
    from vmm import console

    instance = registry.find(args.name)
    if instance.kind != kinds.MACHINE:
        raise Unsupported("no console in", instance.name, "it is a container", f"vmm attach {instance.name}")
    if (state := kinds.backend(instance).state()) not in kinds.RUNNING:
        raise WrongState("no console in", instance.name, f"it is {state}", f"vmm start {instance.name}")
    sys.stderr.write("the serial console; Ctrl-] leaves it, Enter shows a prompt\r\n")
    console.attach(instance.run / "serial", Stdio())
    return 0
