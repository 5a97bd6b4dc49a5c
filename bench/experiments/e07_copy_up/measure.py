"""Append one byte to the image's largest program: overlayfs copies the whole file up, a disk one block."""

from __future__ import annotations

from bench.core import workload
from bench.core.target import Cell, Parts, Target

BODY = """
big=$(ls -S /usr/bin | head -1)
echo file_bytes=$(stat -c %s /usr/bin/$big)
echo x >> /usr/bin/$big
sync -f /usr/bin/$big
"""


def measure(target: Target, cell: Cell) -> Parts:
    """Seconds until the byte is on disk, and the size of the file."""
    return workload.script(target, cell, BODY)
