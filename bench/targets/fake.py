"""A target that runs nothing: seeded noise, hangs, crashes, garbage and leaks, for tests of the harness.

What it does is in the cell's parameters: `median_s`, `sigma` (of the logarithm), `shift` (a factor), `hang`,
`crash`, `garbage`, `leak`, `zero`, `nan`, `fail` (the chance of each, 0..1), `leaks` (what: process, mount,
cgroup, link or file), `sleep`, `seed`.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.core.target import Cell, Held, Parts, Unavailable
from host import paths


def _leak(kind: str, name: str) -> None:
    """Leave one thing behind."""
    if kind == "process":
        subprocess.Popen(["sleep", "3600"], start_new_session=True)
    elif kind == "mount":
        folder = tempfile.mkdtemp(prefix=name)
        subprocess.run(["mount", "-t", "tmpfs", "none", folder], check=True)
    elif kind == "link":
        subprocess.run(["ip", "link", "add", name[:15], "type", "veth"], check=True)
    elif kind == "cgroup":
        next(folder for folder in (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")) if folder.is_dir()
             ).joinpath(name).mkdir()  # fmt: skip
    else:
        paths.ensure(paths.instances_dir()).joinpath(name).touch()


class _Idle:
    accelerator: str | None = None

    def pids(self) -> set[int]:
        return {os.getpid()}

    def cgroups(self) -> tuple[str, ...]:
        return ()

    def guest_values(self) -> dict[str, float]:
        return {"configured_bytes": 0.0}


class Fake:
    """Noise with a known median."""

    name = "fake"
    daemons: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._runs = 0

    def why_unavailable(self) -> Unavailable | None:
        gone = os.environ.get("VMM_FAKE_MISSING", "").split()
        return Unavailable(f"{self.name} is told to be missing") if self.name in gone else None

    def prepare(self, cell: Cell) -> None:
        """Nothing to make."""

    def run_once(self, cell: Cell) -> Parts:
        """One draw of the noise; sleeps only where `sleep` is set."""
        self._runs += 1
        chance = random.Random(f"{cell.param('seed', 1)}/{self.name}/{cell.run}/{self._runs}")
        self._misbehave(cell, chance)
        length_s = float(cell.param("median_s", 0.01)) * chance.lognormvariate(
            0, float(cell.param("sigma", 0.08))
        )
        if self.name == "fake-b":
            length_s *= float(cell.param("shift", 1.0))
        if chance.random() < float(cell.param("zero", 0)):
            length_s = 0.0
        if cell.param("sleep", False):
            time.sleep(length_s)
        length_ns = int(length_s * 1e9)
        values = {"odd_s": math.nan} if chance.random() < float(cell.param("nan", 0)) else {}
        return Parts(
            values=values,
            edges_ns={"t0": 0, "t2": length_ns // 4, "t6": length_ns // 2, "t8": length_ns},
            exit_status=0,
        )

    def _misbehave(self, cell: Cell, chance: random.Random) -> None:
        if chance.random() < float(cell.param("hang", 0)):
            time.sleep(3600)
        if chance.random() < float(cell.param("crash", 0)):
            os.abort()
        if chance.random() < float(cell.param("leak", 0)):
            _leak(str(cell.param("leaks", "process")), f"vmm-fake-{os.getpid()}")
        if chance.random() < float(cell.param("fail", 0)):
            raise RuntimeError("told to fail")
        if chance.random() < float(cell.param("garbage", 0)):
            for fd in range(3, 64):  # one of them is the worker's report
                with contextlib.suppress(OSError):
                    os.write(fd, b"\xff\xff\xff\x7f garbage")

    @contextmanager
    def hold(self, cell: Cell) -> Iterator[Held]:
        """An instance that is this very process."""
        yield _Idle()

    def disk(self, cell: Cell) -> Parts:
        """No disk."""
        return Parts(values={"apparent_bytes": 0.0, "allocated_bytes": 0.0, "unique_bytes": 0.0})

    def cleanup(self) -> None:
        """Nothing was made."""

    def versions(self) -> dict[str, str]:
        """Nothing has a version."""
        return {}


class FakeB(Fake):
    """The same noise from another seed, and `shift` times as long."""

    name = "fake-b"
