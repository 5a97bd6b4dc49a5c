"""The baseline: the command as a plain process in a chroot of the image. No isolation worth the name."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from bench.core import idle
from bench.core.target import Cell, Held, Parts, Unavailable
from bench.targets import command, rootfs
from host.edges import Edges


class Idle:
    """An instance that is a process and its descendants."""

    accelerator: str | None = None

    def __init__(self, pid: int, cgroups: tuple[str, ...] = ()) -> None:
        self._pid, self._cgroups = pid, cgroups

    def pids(self) -> set[int]:
        """The process and all below it."""
        return idle.descendants(self._pid)

    def cgroups(self) -> tuple[str, ...]:
        """Its memory cgroups."""
        return self._cgroups

    def guest_values(self) -> dict[str, float]:
        """There is no guest."""
        return {}


class Here(Idle):
    """An instance in the host's own network."""

    def address(self) -> str:
        """Where its servers listen."""
        return "127.0.0.1"


class Process:
    """posix_spawn(3) in a chroot(2)."""

    name = "process"
    daemons: tuple[str, ...] = ()

    def why_unavailable(self) -> Unavailable | None:
        """chroot(2) and mount(2) are for root."""
        return None if os.geteuid() == 0 else Unavailable("its mounts need root", "run it with sudo")

    def prepare(self, cell: Cell) -> None:
        """Have the image, and nothing left of earlier runs."""
        rootfs.sweep()
        rootfs.prepare(cell.image)

    def run_once(self, cell: Cell) -> Parts:
        """Spawn the command; the root directory is mounted before t0."""
        with rootfs.mounted(cell.image, devices=True) as root:
            return command.timed(command.under_init(cell.command), cell, Edges(), root=str(root))

    @contextmanager
    def hold(self, cell: Cell) -> Iterator[Held]:
        """The command's place taken by one that sleeps."""
        argv = command.under_init(command.resting(cell))
        with (
            rootfs.mounted(cell.image, devices=True) as root,
            command.running(argv, cell.deadline_s, root=str(root)) as pid,
        ):
            try:
                yield Here(pid)
            finally:
                for one in idle.descendants(pid) - {pid}:  # no namespace ends what the command began
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(one, signal.SIGTERM)

    def disk(self, cell: Cell) -> Parts:
        """A process needs no disk of its own."""
        return Parts(values={"apparent_bytes": 0.0, "allocated_bytes": 0.0, "unique_bytes": 0.0})

    def cleanup(self) -> None:
        """Remove what killed workers left."""
        rootfs.sweep()

    def versions(self) -> dict[str, str]:
        """No program but the image's own takes part."""
        return {}
