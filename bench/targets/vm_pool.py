"""Our machines as paused clones that go on: `vmm run --vm --from TEMPLATE` of a template with a pool."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from bench.core.target import Cell, Parts
from bench.targets import command
from bench.targets.vm_from import Clone
from bench.targets.whole import vmm_argv
from host.edges import Edges
from host.errors import DeadlinePassed

POLL_S = 0.05
_FILL_S = 60.0


class Pooled(Clone):
    """A claim; the pool is full again before the next run of anything: nobody is measured beside it."""

    name = "vm-pool"
    pool = 2
    daemons = (*Clone.daemons, "vmm.refill", "guest=pool-")  # what waits for the next run

    def run_once(self, cell: Cell) -> Parts:
        """Request to the end of the command, if a paused clone was there for it."""
        return self._claimed(cell, lambda: super(Pooled, self).run_once(cell))

    def _claimed(self, cell: Cell, run: Callable[[], Parts]) -> Parts:
        before = self._await_full(cell)
        parts = run()
        if before <= self._await_full(cell):
            return Parts("failed", error="no paused clone was taken")
        return parts

    def _await_full(self, cell: Cell) -> set[str]:
        """The ids of the paused clones, once there are as many as there should be."""
        from instances import frozen

        name, until_s = str(self.request(cell).template), time.monotonic() + _FILL_S
        while True:
            found, trouble = frozen.paused(name)
            if len(found) >= self.pool:
                return found
            if trouble or time.monotonic() > until_s:
                raise DeadlinePassed("the pool was not filled", name, trouble or f"within {_FILL_S:g} s")
            time.sleep(POLL_S)


class RunPooled(Pooled):
    """`vmm run --vm --rm --from TEMPLATE`."""

    name = "vmm-run-vm-pool"

    def run_once(self, cell: Cell) -> Parts:
        """One command, spawn to end."""
        parts = self._claimed(
            cell, lambda: command.timed(self._argv(cell), cell, Edges(), env=dict(os.environ))
        )
        return Parts(**{**vars(parts), "accelerator": self._accelerator})

    def _argv(self, cell: Cell) -> list[str]:
        request = self.request(cell)
        words = ("run", "--vm", "--rm", "--name", str(request.name), "--from", str(request.template))
        return [*vmm_argv(), *words, *cell.command]
