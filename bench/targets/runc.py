"""runc: the OCI runtime below docker, without docker; its default spec over the image's root directory."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.core import facts
from bench.core.target import Cell, Held, Parts, Unavailable
from bench.targets import cgroups, command, rootfs
from bench.targets.process import Idle, Process
from host import commands
from host.edges import Edges
from host.sizes import parse_bytes

CGROUP_PARENT = "vmm-bench-runc"


class Runc(Process):
    """`runc run` of a bundle; its network namespace has the loopback only. ROOT is mounted before t0."""

    name = "runc"

    def why_unavailable(self) -> Unavailable | None:
        """The program, and root."""
        if shutil.which(self.name) is None:
            return Unavailable(f"{self.name} is not installed", "make peers")
        return super().why_unavailable()

    def run_once(self, cell: Cell) -> Parts:
        """One container from spawn to end."""
        with self._bundle(cell, cell.command) as argv:
            return command.timed(argv, cell, Edges())

    @contextmanager
    def hold(self, cell: Cell) -> Iterator[Held]:
        """A container whose command sleeps; runc itself waits for it in the foreground."""
        with self._bundle(cell, command.resting(cell)) as argv, command.running(argv, cell.deadline_s) as pid:
            below = sorted(Idle(pid).pids() - {pid})
            yield Idle(pid, cgroups.memory_of(below[-1]) if below else ())

    @contextmanager
    def _bundle(self, cell: Cell, inside: tuple[str, ...]) -> Iterator[list[str]]:
        """A bundle directory for one container; yields the command line that runs it."""
        with rootfs.mounted(cell.image) as root:
            folder = root.parent
            name = f"bench-{os.getpid()}-{cell.run}-{folder.name}"
            config = self._config(root, name, cell, command.under_init(inside))
            (folder / "config.json").write_text(json.dumps(config))
            yield [*self._program(), "--root", str(folder / "state"), "run", "--bundle", str(folder), name]

    def _program(self) -> list[str]:
        return ["runc"]

    def _config(self, root: Path, name: str, cell: Cell, argv: tuple[str, ...]) -> dict[str, Any]:
        """runc's own default spec with our command, root directory, cgroup and memory limit."""
        config = default_spec(root.parent)
        config["process"] |= {"terminal": False, "args": list(argv), "env": [f"PATH={command.ENV['PATH']}"]}
        config["root"] = {"path": str(root), "readonly": False}
        linux = config["linux"]
        linux["cgroupsPath"] = f"/{CGROUP_PARENT}/{name}"
        limit = parse_bytes(str(cell.param("memory", "256M")))
        linux.setdefault("resources", {})["memory"] = {"limit": limit}
        return config

    def cleanup(self) -> None:
        """Scratch directories and empty cgroups of killed workers."""
        super().cleanup()
        cgroups.remove(CGROUP_PARENT)

    def versions(self) -> dict[str, str]:
        """The runtime's."""
        return {self.name: facts.version_of(self.name)}


def default_spec(folder: Path) -> dict[str, Any]:
    """What `runc spec` writes."""
    where = folder / "spec"
    where.mkdir(exist_ok=True)
    path = where / "config.json"
    if not path.exists():
        commands.run(["runc", "spec", "--bundle", str(where)], "cannot make a runc spec", timeout_s=20)
    spec: dict[str, Any] = json.loads(path.read_text())
    return spec
