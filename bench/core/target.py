"""What the bench asks of a thing that it can start. Ours and the peers answer it; the core knows neither.

Adding a target is one file in bench/targets with a class that answers this Protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

Param = str | int | float | bool
MARKER = "vmm-marker"


class Unavailable(NamedTuple):
    """Why a target cannot be used on this host, and the command that mends it."""

    why: str
    hint: str = ""


def _word(value: Param) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class Cell:
    """One thing to measure: an experiment on an image, in a mode, by a target, with its parameters.

    `run` is the order of the run it is for, and no part of what the cell is.
    """

    experiment: str
    mode: str
    image: str
    target: str
    command: tuple[str, ...] = ("echo", MARKER)
    params: tuple[tuple[str, Param], ...] = ()
    deadline_s: float = 60.0
    run: int = 0

    @property
    def group(self) -> str:
        """The name of what is compared: all but the target."""
        told = "".join(f",{name}={_word(value)}" for name, value in self.params)
        return f"{self.experiment}/{self.mode}/{self.image}{told}"

    @property
    def key(self) -> str:
        """The name of the cell in results: group and target."""
        return f"{self.group}/{self.target}"

    def param(self, name: str, default: Param) -> Any:
        """A parameter of the plan, or its default."""
        return dict(self.params).get(name, default)


@dataclass(frozen=True)
class Parts:
    """What a target reports of one run; the core makes the sample of it. Edges are nanoseconds since t0.

    `output` is what the command said, for the experiment's code to read its numbers from; it is not kept.
    `way` is told with the target's name where one target may go several: how a memory was loaded, say.
    """

    status: str = "ok"
    edges_ns: Mapping[str, int] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)
    exit_status: int | None = None
    accelerator: str | None = None
    error: str | None = None
    hint: str | None = None
    output: str = ""
    way: str | None = None


class Held(Protocol):
    """An idle instance, alive while its context is: what memory is measured on, and work is run in."""

    accelerator: str | None

    def pids(self) -> set[int]: ...
    def cgroups(self) -> tuple[str, ...]: ...
    def guest_values(self) -> dict[str, float]: ...


class Target(Protocol):
    """One way to start an image. `run_once`, `hold` and `disk` run in a worker process of their own.

    `daemons` are words in the command lines of processes that a run may start and leave for the next one, and
    the names of the files that these keep in the watched folders.
    """

    name: str
    daemons: tuple[str, ...]

    def why_unavailable(self) -> Unavailable | None: ...
    def prepare(self, cell: Cell) -> None: ...
    def run_once(self, cell: Cell) -> Parts: ...
    def hold(self, cell: Cell) -> AbstractContextManager[Held]: ...
    def disk(self, cell: Cell) -> Parts: ...
    def cleanup(self) -> None: ...
    def versions(self) -> dict[str, str]: ...


Measure = Callable[[Target, Cell], "Parts | tuple[Parts, ...]"]
