"""Our machines as clones of a template by name, made before the runs: `vmm run --vm --from TEMPLATE`."""

from __future__ import annotations

import contextlib
import os
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING

from bench.core.target import Cell
from bench.targets.ours import PREFIX
from bench.targets.vm import Machine
from host.errors import Failure, NotFound

if TYPE_CHECKING:
    from bench.targets.burst import Burst
    from instances.requests import RunRequest


class Clone(Machine):
    """A clone with an identity of its own before anything can talk to it.

    The parameter `system` freezes a booted system (image debian), else a machine in command mode is frozen.
    """

    name = "vm-from"
    # Its sshd listens from the first moment on, and every further connection would be one more sshd for the
    # guest to start: one knocks, as ssh(1) would.
    knock_every_s = 5.0
    pool = 0  # paused clones

    def __init__(self) -> None:
        super().__init__()
        self._campaign_pid = os.getpid()

    def prepare(self, cell: Cell) -> None:
        """Freeze a machine of the image, once a campaign."""
        from instances import frozen

        cell = _as_started(cell)
        name = self._template(cell)
        try:
            frozen.facts(name)
        except NotFound:
            asked = super().request(cell)
            asked = asked._replace(boot=super().boot(cell), ports=(), rm=False, name=None)
            frozen.create(name, asked, self.pool, for_image=False)  # those are other targets' runs
        super().prepare(cell)

    def boot(self, cell: Cell) -> str | None:
        """No rung: the template decides."""
        return None

    def request(self, cell: Cell) -> RunRequest:
        """A clone; the template bears the pid of the campaign, which made us before it forked workers."""
        cell = _as_started(cell)
        return super().request(cell)._replace(template=self._template(cell))

    def _template(self, cell: Cell) -> str:
        """Its name: of a machine that booted a system, or of one in command mode, of one size."""
        kind = "system" if cell.mode == "boot" else str(cell.param("boot", "command"))
        words = (PREFIX, self._campaign_pid, cell.image.replace(":", "-"), kind, cell.param("memory", "any"))
        return "-".join(map(str, (*words, *((f"pool{self.pool}",) if self.pool else ()))))

    def frozen(self, cell: Cell) -> dict[str, float]:
        """What the template cost: `after_boot_s` from the booted machine on, memory and disk it holds."""
        from instances import frozen

        return frozen.facts(str(self.request(cell).template))

    def freeze(self, cell: Cell) -> dict[str, float]:
        """Make the template once more; what that cost."""
        from instances import frozen

        with contextlib.suppress(NotFound):
            frozen.remove(str(self.request(cell).template))
        self.prepare(cell)
        return self.frozen(cell)

    def burst(self, cell: Cell) -> AbstractContextManager[Burst]:
        """Clones asked for at once, by whole commands."""
        from bench.targets import burst

        command = () if cell.param("system", False) else ("sleep", "86400")
        return burst.asked(cell, None, ("--from", str(self.request(cell).template), *command))

    def cleanup(self) -> None:
        """Remove the clones, then the templates of this campaign and of campaigns that are dead."""
        from instances import frozen

        super().cleanup()
        for name in frozen.every():
            prefix, _, rest = name.partition("-")
            pid = rest.partition("-")[0]
            if prefix == PREFIX and (pid == str(self._campaign_pid) or not os.path.exists(f"/proc/{pid}")):
                with contextlib.suppress(Failure):
                    frozen.remove(name)


class Kept(Clone):
    """A clone that keeps its template's name, machine-id and host keys: what renewing them costs."""

    name = "vm-kept"

    def request(self, cell: Cell) -> RunRequest:
        """`--keep-identity`."""
        return super().request(cell)._replace(keep_identity=True)


def _as_started(cell: Cell) -> Cell:
    return replace(cell, mode="boot") if cell.param("system", False) else cell
