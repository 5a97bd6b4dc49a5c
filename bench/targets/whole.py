"""Whole commands, as one types them: the start of Python and of all that it imports is part of the time."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager
from pathlib import Path

from bench.core.target import Cell, Parts
from bench.targets import command, crowd
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
    argv = _argv(cell, "--name", str(target.request(cell).name), *words)
    return command.timed(argv, cell, Edges(), env=dict(os.environ))


def _argv(cell: Cell, *words: str) -> list[str]:
    network = str(cell.param("network", "none"))
    argv = [*vmm_argv(), "run", "--rm", *words]
    if network != "bridge":  # docker's default, and ours for containers
        argv += ["--network", network]
    return [*argv, cell.image, *cell.command]


class RunContainer(Container):
    """`vmm run --ct --rm`."""

    name = "vmm-run-ct"

    def run_once(self, cell: Cell) -> Parts:
        """One command, spawn to end."""
        return _whole(self, cell, "--ct")

    def whole_argv(self, cell: Cell, number: int) -> tuple[list[str], dict[str, str]]:
        """The command line of one of several at once, and its environment."""
        return _argv(cell, "--ct", "--name", f"{self.request(cell).name}-{number}"), dict(os.environ)

    def crowd(self, cell: Cell) -> AbstractContextManager[crowd.Crowd]:
        """Many idle ones."""
        return crowd.made(vmm_argv(), cell)

    def rebuild(self, cell: Cell) -> Parts:
        """`vmm image build` with all but the last COPY cached."""
        from bench.targets import imaging

        build = [*vmm_argv(), "image", "build", "-t", "bench-rebuild"]
        return imaging.rebuild(build, cell.image, cell, os.environ)

    def pull(self, cell: Cell) -> Parts:
        """`vmm image pull` of a version that shares its base with the one that is here."""
        from bench.targets import imaging

        return imaging.pull(cell)


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
