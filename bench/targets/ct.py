"""Our containers, started in process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.core.target import Cell, Parts, Unavailable
from bench.targets import command, engine
from bench.targets.ours import Ours, heard, home_is_writable
from host import paths

if TYPE_CHECKING:
    from instances.requests import RunRequest


class Container(Ours):
    """`vmm run --ct --rm --network none`, without the start of Python; the guest helper is its pid 1."""

    name = "ct"
    kind = "ct"
    # One process for all detached containers, which ends when it has nothing to do, and its two files.
    daemons = (*Ours.daemons, "containers.supervisor", "supervisor.bell", "supervisor.lock")

    def why_unavailable(self) -> Unavailable | None:
        """Root, or user namespaces."""
        return home_is_writable()

    def request(self, cell: Cell) -> RunRequest:
        """The command under our init, which is bound in from outside, as on every other target.

        Without the usual memory limit where this user has no cgroup to set it in: one that the plan asks
        for is still asked for, and refused.
        """
        from host.linux import cgroup
        from instances.requests import Volume

        asked = super().request(cell)
        if not cell.param("memory", "") and not cgroup.layout().controllers(("memory",)):
            asked = asked._replace(memory_bytes=None)
        if cell.mode == "boot" or not cell.param("init", True):
            return asked
        helper = Volume(str(paths.guest_helper()), command.HELPER, read_only=True)
        return asked._replace(volumes=(helper,), command=command.under_init(asked.command))

    def run_once(self, cell: Cell) -> Parts:
        """A start is made by an engine without the campaign's memory; work and boots as every kind's."""
        if cell.mode != "command":
            return super().run_once(cell)
        return heard(lambda out, err, tell: engine.spawn(self.request(cell), out, err, tell), cell)
