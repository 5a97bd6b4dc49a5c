"""Our machines as `vmm run` starts them by default: a clone of a template's frozen memory."""

from __future__ import annotations

from importlib.util import find_spec

from bench.core.target import Cell, Unavailable
from bench.targets.ours import Ours
from bench.targets.vm import Machine


class Clone(Machine):
    """`vmm run --vm --rm --network none`; the warm-up makes the template. Its kernel never starts: no t5."""

    name = "vm-clone"

    def why_unavailable(self) -> Unavailable | None:
        """Templates are a part of the machines' room that an older build has not."""
        if find_spec("vmm.clones") is None:
            return Unavailable("this build has no templates")
        return super().why_unavailable()

    def boot(self, cell: Cell) -> str | None:
        """No rung: the template decides."""
        return Ours.boot(self, cell)
