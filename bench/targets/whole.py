"""Whole commands, as one types them: the start of Python and of all that it imports is part of the time."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from bench.core.target import Cell, Parts
from bench.targets import command
from bench.targets.ct import Container
from bench.targets.ours import Ours
from bench.targets.vm import Machine
from bench.targets.vm_clone import Clone
from host.edges import Edges


def vmm_argv() -> list[str]:
    """Our own command, of the installation that runs this."""
    script = Path(sys.prefix, "bin", "vmm")
    return [str(script)] if script.exists() else [sys.executable, "-m", "cli.main"]


def _whole(target: Ours, cell: Cell, *words: str) -> Parts:
    request = target.request(cell)
    network = str(cell.param("network", "none"))
    argv = [*vmm_argv(), "run", "--rm", "--name", str(request.name), *words]
    if network != "bridge":  # docker's default, and ours for containers
        argv += ["--network", network]
    return command.timed([*argv, cell.image, *cell.command], cell, Edges(), env=dict(os.environ))


class RunContainer(Container):
    """`vmm run --ct --rm`."""

    name = "vmm-run-ct"

    def run_once(self, cell: Cell) -> Parts:
        """One command, spawn to end."""
        return _whole(self, cell, "--ct")


class RunMachine(Clone):
    """`vmm run --vm --rm`: from the template, once there is one."""

    name = "vmm-run-vm"

    def run_once(self, cell: Cell) -> Parts:
        """One command, spawn to end."""
        return Parts(**{**vars(_whole(self, cell, "--vm")), "accelerator": self._accelerator})


class RunMachineCold(Machine):
    """`vmm run --vm --rm --boot microvm`: a cold boot."""

    name = "vmm-run-vm-cold"

    def run_once(self, cell: Cell) -> Parts:
        """One command, spawn to end."""
        parts = _whole(self, cell, "--vm", "--boot", "microvm")
        return Parts(**{**vars(parts), "accelerator": self._accelerator})
