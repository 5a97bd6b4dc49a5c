"""A program of the host, spawned and waited for: what the harness is compared with hyperfine by."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench.core.target import Cell, Held, Parts, Unavailable
from bench.targets import command
from bench.targets.process import Idle, Process


class Exec(Process):
    """posix_spawn(3) and waitpid(2), as `hyperfine -N` times them; the command is the host's."""

    name = "exec"

    def why_unavailable(self) -> Unavailable | None:
        """Always there."""
        return None

    def prepare(self, cell: Cell) -> None:
        """Nothing to make."""

    def run_once(self, cell: Cell) -> Parts:
        """One program with all its descriptors on /dev/null."""
        argv = list(cell.command)
        actions = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
        began_ns = time.monotonic_ns()
        pid = os.posix_spawn(argv[0], argv, command.ENV, file_actions=actions)
        _, raw = os.waitpid(pid, 0)
        ended_ns = time.monotonic_ns()
        status = os.waitstatus_to_exitcode(raw)
        error = f"{argv[0]} ended with {status}" if status else None
        edges = {"t0": 0, "t2": 0, "t9": ended_ns - began_ns}
        return Parts("failed" if status else "ok", edges, {}, status, error=error)

    @contextmanager
    def hold(self, cell: Cell) -> Iterator[Held]:
        """A sleeping program."""
        with command.running(["sh", "-c", f"echo {os.getpid()}; exec sleep 86400"], cell.deadline_s) as pid:
            yield Idle(pid)
