"""What `vmm exec` asks of a running instance of either kind."""

from __future__ import annotations

from host.typing import NamedTuple


class ExecRequest(NamedTuple):
    """A command for a running instance; `env` holds K=V words, `user` is UID or name with an optional :GROUP.

    `rows` and `cols` are the size of the terminal that `tty` asks for (0: taken from our own).
    """

    argv: tuple[str, ...]
    env: tuple[str, ...] = ()
    cwd: str = ""
    user: str = ""
    tty: bool = False
    interactive: bool = False
    privileged: bool = False
    detach: bool = False
    rows: int = 0
    cols: int = 0
