"""A picture of a machine's screen, through QMP screendump."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from host.errors import Unsupported

if TYPE_CHECKING:
    from vmm.machine import Machine


def take(machine: Machine, target: Path) -> None:
    """Write the screen as a PNG; raises Unsupported for a machine without a graphics card."""
    name = machine.folder.name
    if not machine.spec.display:
        hint = f"vmm console {name}; machines that boot by bios or uefi have a screen"
        raise Unsupported("no screen in", name, "it speaks through its serial console", hint)
    # QEMU writes it itself, as its own user: into the run directory, where it was given this one file.
    shot = machine.run_dir / "screen.png"
    os.close(os.open(shot, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
    try:
        machine.lend(shot)
        machine.execute("screendump", {"filename": str(shot), "format": "png"}, 20.0)
        shutil.copyfile(shot, target)
    finally:
        shot.unlink(missing_ok=True)
