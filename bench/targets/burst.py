"""Machines asked for at the same moment, by whole commands; they sleep until all are removed."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench.core import idle
from bench.core.target import Cell
from bench.targets.ours import PREFIX
from bench.targets.whole import vmm_argv

_REMOVE_S = 300.0
_UP = ("running", "ssh-ready", "cloud-init-done")


class Burst:
    """Machines `NAME-0`, `NAME-1` ... of one cell."""

    def __init__(self, cell: Cell, boot: str | None, clone: tuple[str, ...]) -> None:
        self._cell, self._boot, self._clone = cell, boot, clone
        self._name = f"{PREFIX}-{os.getppid()}-{os.getpid()}-{cell.run}"
        self._started: list[str] = []

    def start(self, count: int) -> list[float | None]:
        """Ask for `count` more at once; the seconds from then to each one's return, None where it failed."""
        began_s = time.monotonic()
        asked = [subprocess.Popen(self._argv(), **_QUIET) for _ in range(count)]
        took_s: list[float | None] = []
        while asked:
            pid, status = os.wait()
            for one in [one for one in asked if one.pid == pid]:
                asked.remove(one)
                one.returncode = os.waitstatus_to_exitcode(status)
                took_s.append(None if status else time.monotonic() - began_s)
        return took_s

    def _argv(self) -> list[str]:
        name = f"{self._name}-{len(self._started)}"
        self._started.append(name)
        if self._clone:
            return [*vmm_argv(), "run", "-d", "--vm", "--name", name, *self._clone]
        words = ["run", "-d", "--vm", *(("--boot", self._boot) if self._boot else ())]
        words += ["--memory", str(self._cell.param("memory", "128M")), "--network", "none"]
        return [*vmm_argv(), *words, "--name", name, self._cell.image, "sleep", "86400"]

    def answers_s(self, which: slice = slice(None)) -> list[float | None]:
        """Seconds of `vmm exec NAME true` in some of them, one after another; None where it failed."""
        took_s: list[float | None] = []
        for name in self._started[which]:
            began_s = time.monotonic()
            done = subprocess.run([*vmm_argv(), "exec", name, "true"], check=False, **_QUIET)
            took_s.append(None if done.returncode else time.monotonic() - began_s)
        return took_s

    def ls_s(self) -> float:
        """The seconds of one `vmm ls`."""
        began_s = time.monotonic()
        subprocess.run([*vmm_argv(), "ls"], check=True, **_QUIET)
        return time.monotonic() - began_s

    def running(self) -> int:
        """How many of them `vmm ls` shows as running; in system mode that is once sshd answers."""
        return len(self._running())

    def _running(self) -> list[str]:
        said = subprocess.run([*vmm_argv(), "ls", "--json"], check=True, capture_output=True).stdout
        shown: list[dict[str, Any]] = json.loads(said)["instances"]
        return [one["name"] for one in shown if one["name"] in self._started and one["state"] in _UP]

    def memory(self) -> dict[str, float]:
        """The mean over the machines: PSS in all, and what of it is not the guest's RAM."""
        told = [one for one in self._inspected() if one["pid"]]
        pss = sum(float(idle.processes([one["pid"]])["pss_bytes"]) for one in told)
        beyond = sum(float(one["memory"]["vmm_pss_bytes"]) for one in told)
        files = sum(float(one["memory"]["files_pss_bytes"]) for one in told)
        count = max(1, len(told))
        return {
            "pss_bytes": pss / count,
            "beyond_guest_bytes": beyond / count,
            "files_bytes": files / count,
        }

    def _inspected(self) -> list[dict[str, Any]]:
        said = subprocess.run(
            [*vmm_argv(), "inspect", *self._running()], check=True, capture_output=True
        ).stdout
        found: list[dict[str, Any]] = json.loads(said)["instances"]
        return found

    def remove(self) -> None:
        """Remove all that were asked for."""
        subprocess.run([*vmm_argv(), "rm", "-f", *self._started], check=False, timeout=_REMOVE_S, **_QUIET)
        self._started.clear()


_QUIET: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)


@contextmanager
def asked(cell: Cell, boot: str | None, clone: tuple[str, ...] = ()) -> Iterator[Burst]:
    """A burst whose machines are gone when the context ends.

    `clone` are the words of one that has no rung: `--from TEMPLATE` and its command.
    """
    burst = Burst(cell, boot, clone)
    try:
        yield burst
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            burst.remove()
