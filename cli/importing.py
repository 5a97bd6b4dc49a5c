"""vmm import: a machine of the file that vmm export wrote."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from host.errors import NotFound


def configure(parser: argparse.ArgumentParser) -> None:
    """The flags of `vmm import`."""
    parser.add_argument("file", metavar="FILE", help="what vmm export NAME -o FILE wrote")
    parser.add_argument("--name", help="another name than the one that it had")


def main(args: argparse.Namespace) -> int:
    """Make the machine, print its name, and say what it cannot have here."""
    from instances import moving

    path = Path(args.file)
    if not path.is_file():
        raise NotFound("no file to import at", args.file)
    made = moving.import_(path, args.name)
    for one in made.left_out:
        sys.stderr.write(f"vmm import: left out {one}: an archive may not name folders of this host\n")
    print(made.instance.name)
    return 0
