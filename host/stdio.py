"""The three descriptors that an instance's command speaks through, and whether they are a terminal."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stdio:
    """Descriptors for stdin, stdout, stderr; `tty` asks for a pseudo-terminal, `interactive` keeps stdin open."""

    stdin: int = 0
    stdout: int = 1
    stderr: int = 2
    tty: bool = False
    interactive: bool = False
