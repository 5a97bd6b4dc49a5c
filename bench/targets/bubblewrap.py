"""bubblewrap: a sandbox with every namespace unshared, no daemon, no image, no limits."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.core import facts
from bench.core.target import Cell, Held, Parts, Unavailable
from bench.targets import command, rootfs
from bench.targets.process import Idle, Process
from host.edges import Edges


class Bubblewrap(Process):
    """`bwrap --bind ROOT / --proc /proc --dev /dev --unshare-all`; ROOT is mounted before t0."""

    name = "bubblewrap"
    program = "bwrap"
    devices = False

    def why_unavailable(self) -> Unavailable | None:
        """The program, and root for the overlay that it is given as its root directory."""
        if shutil.which(self.program) is None:
            return Unavailable(f"{self.name} is not installed", "make peers")
        return super().why_unavailable()

    def argv(self, root: Path, inside: tuple[str, ...]) -> list[str]:
        """The command line."""
        words = ["bwrap", "--bind", str(root), "/", "--proc", "/proc", "--dev", "/dev", "--unshare-all",
                 "--die-with-parent"]  # fmt: skip
        return [*words, *command.under_init(inside)]

    def run_once(self, cell: Cell) -> Parts:
        """One sandbox from spawn to end."""
        with rootfs.mounted(cell.image, self.devices) as root:
            return command.timed(self.argv(root, cell.command), cell, Edges())

    @contextmanager
    def hold(self, cell: Cell) -> Iterator[Held]:
        """A sandbox whose command sleeps."""
        with (
            rootfs.mounted(cell.image, self.devices) as root,
            command.running(self.argv(root, command.resting(cell)), cell.deadline_s) as pid,
        ):
            yield Idle(pid)

    def versions(self) -> dict[str, str]:
        """The program's."""
        return {self.name: facts.version_of(self.name)}
