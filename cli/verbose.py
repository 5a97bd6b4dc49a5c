"""run --verbose: which way a start went, and how long each stretch of it took; on stderr."""

from __future__ import annotations

import sys
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from host.edges import Edges

# What happens up to an edge, where it is not the edge's own name (host.edges.NAMES) that says it best.
_UNTIL = {
    "t1": "image, record and disk",
    "t2": "plan and sockets",
    "t3": "VMM until it is ready",
    "t4": "guest until its first word",
    "t5": "loading the kernel",
    "t6": "the kernel until its init",
    "t7": "network",
    "t8": "command until its first output",
    "t9": "command's end, and taking down",
}


def tell(edges: Edges) -> None:
    """Print the way and the phases of a start that is over."""
    sys.stderr.write("".join(f"vmm: {line}\n" for line in lines(edges)))


def lines(edges: Edges) -> list[str]:
    """The way, one line a phase between the edges that were passed, in their order, and the sum."""
    passed = sorted(edges.stamps_ns.items(), key=lambda item: item[1])
    told = [edges.way] if edges.way else []
    for (_, began), (edge, ended) in pairwise(passed):
        if edge == "t2" and edges.freezing_ns:
            told.append(f"{edges.freezing_ns / 1e6:9.1f} ms  freezing a template, or waiting for who does")
            began += edges.freezing_ns
        told.append(f"{(ended - began) / 1e6:9.1f} ms  {_UNTIL.get(edge, edge)}")
    if len(passed) > 1:
        told.append(f"{(passed[-1][1] - passed[0][1]) / 1e6:9.1f} ms  in all")
    return told
