"""The three descriptors that an instance's command speaks through, and whether they are a terminal."""

from __future__ import annotations

from host.typing import NamedTuple


class Stdio(NamedTuple):
    """Descriptors for stdin, stdout and stderr; `tty` asks for a terminal inside."""

    stdin: int = 0
    stdout: int = 1
    stderr: int = 2
    tty: bool = False
    interactive: bool = False
