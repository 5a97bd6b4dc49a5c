"""Our machines by the qemu driver, started in process."""

from __future__ import annotations

import shutil
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from bench.core import facts
from bench.core.target import Cell, Unavailable
from bench.targets.ours import Ours, home_is_writable

if TYPE_CHECKING:
    from bench.targets.burst import Burst


class Machine(Ours):
    """`vmm run --vm --rm --network none`, without the start of Python."""

    name = "vm"
    kind = "vm"
    driver: str | None = "qemu"

    def boot(self, cell: Cell) -> str | None:
        """A cold boot: without a rung's name, `vmm run` would clone a template.

        Work is measured with the devices that people have, not in a microvm.
        """
        return super().boot(cell) or ("microvm" if cell.mode in ("command", "memory", "disk") else "direct")

    def burst(self, cell: Cell) -> AbstractContextManager[Burst]:
        """Machines asked for at once."""
        from bench.targets import burst

        return burst.asked(cell, self.boot(cell))

    def why_unavailable(self) -> Unavailable | None:
        """QEMU has to be there; without KVM it emulates."""
        if shutil.which("qemu-system-x86_64") is None:
            return Unavailable("QEMU is not installed", "apt-get install qemu-system-x86")
        return home_is_writable()

    def versions(self) -> dict[str, str]:
        """QEMU's, and the images'."""
        return {**super().versions(), "qemu": facts.version_of("qemu")}
