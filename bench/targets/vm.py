"""Our machines by the qemu driver, started in process."""

from __future__ import annotations

import shutil

from bench.core import facts
from bench.core.target import Cell, Unavailable
from bench.targets.ours import Ours, home_is_writable


class Machine(Ours):
    """`vmm run --vm --rm --network none`, without the start of Python."""

    name = "vm"
    kind = "vm"
    driver: str | None = "qemu"

    def boot(self, cell: Cell) -> str | None:
        """A cold boot: without a rung's name, `vmm run` would clone a template."""
        return super().boot(cell) or ("direct" if cell.mode == "boot" else "microvm")

    def why_unavailable(self) -> Unavailable | None:
        """QEMU has to be there; without KVM it emulates."""
        if shutil.which("qemu-system-x86_64") is None:
            return Unavailable("QEMU is not installed", "apt-get install qemu-system-x86")
        return home_is_writable()

    def versions(self) -> dict[str, str]:
        """QEMU's."""
        return {"qemu": facts.version_of("qemu")}
