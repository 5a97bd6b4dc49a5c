"""What a build asks of whoever can run a command in a tree: `images` itself knows no containers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StepMount:
    """A mount of RUN --mount: kind `bind` (of `source`) or `tmpfs`."""

    kind: str
    target: str
    source: Path | None = None
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """One RUN: a command over `lowers` (top first); its changes shall lie in `folder`/upper at its end.

    `folder` is an empty directory on the store's file system, for the runner alone. The changes are in the
    form of overlayfs, without redirects. `network` is `default`, `none` or `host`.
    """

    folder: Path
    lowers: tuple[Path, ...]
    argv: tuple[str, ...]
    env: tuple[str, ...]
    workdir: str
    user: str
    network: str = "default"
    mounts: tuple[StepMount, ...] = ()


class StepRunner(Protocol):
    """Runs a step to its end, its stdout and stderr to the descriptor `output`; the command's exit status."""

    def __call__(self, step: Step, output: int) -> int:
        """Run it."""
        ...
