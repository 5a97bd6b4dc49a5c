"""Our containers, started in process."""

from __future__ import annotations

from bench.core.target import Unavailable
from bench.targets.ours import Ours, home_is_writable


class Container(Ours):
    """`vmm run --ct --rm --init --network none`, without the start of Python."""

    name = "ct"
    kind = "ct"
    init = True

    def why_unavailable(self) -> Unavailable | None:
        """Root, or user namespaces."""
        return home_is_writable()
