"""The edges of a start: t0 request ... t9 gone again, stamped on the host's CLOCK_MONOTONIC."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = {
    "t0": "request",
    "t1": "image and disk ready",
    "t2": "just before exec of VMM or container init",
    "t3": "VMM ready",
    "t4": "first guest output",
    "t5": "kernel entry (derived)",
    "t6": "init exec",
    "t7": "network up",
    "t8": "first correct reply",
    "t9": "gone again",
}


class Edges:
    """Stamps of one start, in nanoseconds of CLOCK_MONOTONIC; an edge that was never passed is absent.

    `way` says by which way it went, where there are several; `freezing_ns` is how much of the time before t2
    went into the making of a template, or the wait for who makes it. `watcher` is told of each new stamp as
    it is set, for a process that shows a start while it happens.
    """

    __slots__ = ("freezing_ns", "stamps_ns", "way")
    watcher: Callable[[str, int], None] | None = None

    def __init__(self) -> None:
        self.stamps_ns: dict[str, int] = {}
        self.way = ""
        self.freezing_ns = 0

    def mark(self, edge: str, at_ns: int | None = None) -> None:
        """Stamp an edge now, or at a time taken before; the first stamp of an edge stays."""
        if edge in self.stamps_ns:
            return
        self.stamps_ns[edge] = time.monotonic_ns() if at_ns is None else at_ns
        if Edges.watcher is not None:
            Edges.watcher(edge, self.stamps_ns[edge])

    def since_ns(self, start: str = "t0") -> dict[str, int]:
        """All edges relative to `start`, in nanoseconds."""
        zero = self.stamps_ns[start]
        return {edge: at - zero for edge, at in sorted(self.stamps_ns.items())}
