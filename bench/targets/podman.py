"""podman: docker's words without a daemon; its store, its runs and its network in places of our own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.core import facts, idle, worker
from bench.core.target import MARKER, Cell, Held, Parts, Unavailable
from bench.targets import cgroups, command, disk_use, rootfs
from bench.targets.docker import tar_into
from host import commands, paths
from host.edges import Edges
from host.errors import Failure
from host.linux import syscalls

CGROUP_PARENT = "vmm-bench-podman"
GONE_S = 10.0
# Where CAP_SYS_RESOURCE is missing, podman's own defaults die with EPERM: limits below the host's do not.
ULIMITS = ("--ulimit", "nofile=16384:16384", "--ulimit", "nproc=8192:8192")


class PodmanHeld:
    """A detached container: conmon and the container's own processes."""

    accelerator: str | None = None

    def __init__(self, told: dict[str, object]) -> None:
        self._told = told
        self.conmon = 0
        with contextlib.suppress(OSError, ValueError):
            self.conmon = int(Path(str(told["ConmonPidFile"])).read_text())

    def pids(self) -> set[int]:
        """conmon and all below it, the container's first process among them."""
        found = idle.descendants(int(str(self._told["Pid"])))
        return found | idle.descendants(self.conmon) if self.conmon else found

    def cgroups(self) -> tuple[str, ...]:
        """The container's memory cgroup."""
        return cgroups.memory_of(int(str(self._told["Pid"])))

    def guest_values(self) -> dict[str, float]:
        """There is no guest."""
        return {}


class Podman:
    """`podman run --rm --network none` of the image, imported from the same files."""

    name = "podman"
    daemons: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._held = contextlib.ExitStack()
        self._images: set[str] = set()

    def why_unavailable(self) -> Unavailable | None:
        """The program with its helpers; root here, for the same cgroup limits as the others."""
        gone = [name for name in ("podman", "conmon", "runc") if shutil.which(name) is None]
        if gone:
            return Unavailable(f"not installed: {', '.join(gone)}", "make peers")
        return None if os.geteuid() == 0 else Unavailable("measured as root only", "run it with sudo")

    def prepare(self, cell: Cell) -> None:
        """A store of its own with the image's files in it."""
        rootfs.prepare(cell.image)
        if self._folder is None:
            self._folder = self._held.enter_context(rootfs.scratch_folder())
            (self._folder / "containers.conf").write_text(
                '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\nruntime = "runc"\n'
            )
        if cell.image not in self._images:
            argv = self._argv("import", "-", cell.image)
            for ran in worker.runs(lambda: tar_into(cell.image, argv, self._env), 1, 180.0):
                if ran.parts[0].status != "ok":
                    raise Failure("cannot import the image into podman", cell.image, ran.parts[0].error or "")
            self._images.add(cell.image)

    @property
    def _env(self) -> dict[str, str]:
        return {
            **command.ENV,
            "CONTAINERS_CONF": f"{self._folder}/containers.conf",
            "TMPDIR": f"{self._folder}",
        }

    def _argv(self, *words: str) -> list[str]:
        run = _run()  # podman wants its run root within 50 characters
        places = ["--root", f"{self._folder}/data", "--runroot", f"{run}/state", "--tmpdir", f"{run}/tmp"]
        return ["podman", *places, "--storage-driver", "overlay", *words]

    def _limits(self, cell: Cell) -> list[str]:
        return [
            "--network", str(cell.param("network", "none")), "--memory", str(cell.param("memory", "256M")),
            "--cgroup-parent", f"/{CGROUP_PARENT}", *ULIMITS,
        ]  # fmt: skip

    def _podman(self, *words: str) -> str:
        return commands.run(
            self._argv(*words), f"cannot podman {words[0]}", timeout_s=60, env=self._env
        ).decode()

    def run_once(self, cell: Cell) -> Parts:
        """`podman run --rm`, as one types it."""
        words, env = self.whole_argv(cell)
        return command.timed(words, cell, Edges(), env=env)

    def whole_argv(self, cell: Cell, number: int = 0) -> tuple[list[str], dict[str, str]]:
        """The command line of one of several at once, and its environment."""
        return self._argv("run", "--rm", *self._limits(cell), cell.image, *command.inside(cell)), self._env

    @contextmanager
    def hold(self, cell: Cell) -> Iterator[Held]:
        """`podman run -d`, up when its log has the marker."""
        words = ["run", "-d", *self._limits(cell), cell.image, *command.under_init(command.resting(cell))]
        container = self._podman(*words).strip()
        conmon = 0
        try:
            command.await_text(lambda: self._podman("logs", container), MARKER, cell.deadline_s)
            told = json.loads(self._podman("inspect", container))[0]
            held = PodmanHeld({"Pid": told["State"]["Pid"], "ConmonPidFile": told.get("ConmonPidFile", "")})
            conmon = held.conmon
            yield held
        finally:
            self._podman("rm", "-f", "-t", "0", container)
            if conmon:  # it outlives the container by the cleanup command that it runs
                command.ended(conmon, GONE_S)

    @contextmanager
    def provisioned(self, cell: Cell) -> Iterator[str]:
        """A container that was created and is never started."""
        container = self._podman("create", *self._limits(cell), cell.image, "/bin/true").strip()
        try:
            yield container
        finally:
            self._podman("rm", "-f", container)

    def disk(self, cell: Cell) -> Parts:
        """What `podman create` adds under its root."""
        assert self._folder is not None
        parents = [self._folder / "data" / name for name in ("overlay", "overlay-containers")]
        before = disk_use.entries(parents)
        with self.provisioned(cell):
            return Parts(values=disk_use.of(disk_use.entries(parents) - before))

    def cleanup(self) -> None:
        """Its containers, its store (bind mounted on itself), its cgroups."""
        if self._folder is not None:
            with contextlib.suppress(Failure):
                self._podman("rm", "-f", "-a", "-t", "0")
            with contextlib.suppress(OSError):
                syscalls.umount2(f"{self._folder}/data/overlay".encode(), syscalls.MNT_DETACH)
        self._held.close()
        shutil.rmtree(_run(), ignore_errors=True)
        self._folder = None
        self._images.clear()
        cgroups.remove(CGROUP_PARENT)

    def versions(self) -> dict[str, str]:
        """podman's and runc's."""
        return {"podman": facts.version_of("podman"), "runc": facts.version_of("runc")}


def _run() -> Path:
    return paths.run_dir() / "podman"
