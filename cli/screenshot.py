"""vmm screenshot: a picture of a machine's screen."""

from __future__ import annotations

import argparse
from pathlib import Path

from host.errors import Unsupported
from instances import kinds, registry


def configure(parser: argparse.ArgumentParser) -> None:
    """The flags of `vmm screenshot`."""
    parser.add_argument("name", metavar="NAME", help="a machine's name or the start of its id")
    parser.add_argument("file", metavar="FILE", nargs="?", help="where to write the PNG (NAME.png)")


def main(args: argparse.Namespace) -> int:
    """Write the picture and print where."""
    from vmm import screenshot
    from vmm.machine import Machine

    instance = registry.find(args.name)
    machine = kinds.backend(instance)
    if not isinstance(machine, Machine):
        raise Unsupported("no screen in", instance.name, "it is a container")
    target = Path(args.file or f"{instance.name}.png")
    with registry.held(instance):
        screenshot.take(machine, target)
    print(target)
    return 0
