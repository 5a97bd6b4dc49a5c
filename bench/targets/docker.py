"""docker: a daemon of our own in its own network, mount and pid namespaces, so that the host sees none of it.

One signal ends it with all its containers: the pid namespace dies with its first process (pid_namespaces(7)).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.core import facts, idle, worker
from bench.core.target import MARKER, Cell, Held, Parts, Unavailable
from bench.targets import cgroups, command, disk_use, rootfs
from host import commands, paths
from host.edges import Edges
from host.errors import CommandFailed, DeadlinePassed, Failure
from host.linux import syscalls

CGROUP_PARENT = "vmm-bench-docker"
UP_S = 40.0


class DockerHeld:
    """A detached container: its own processes and its shim; the daemon is told apart."""

    accelerator: str | None = None

    def __init__(self, daemon: int, container: str, socket: str) -> None:
        self._daemon, self._container, self._socket = daemon, container, socket

    def exec_argv(self, inside: tuple[str, ...]) -> list[str]:
        """The whole command that runs one more in it."""
        return ["docker", "-H", self._socket, "exec", self._container, *inside]

    def address(self) -> str:
        """Its address on docker's bridge."""
        return self._docker("inspect", "--format", "{{.NetworkSettings.IPAddress}}", self._container)

    def pause(self) -> None:
        """Freeze it."""
        self._docker("pause", self._container)

    def resume(self) -> None:
        """Let it go on."""
        self._docker("unpause", self._container)

    def resize(self, memory_bytes: int) -> None:
        """Another memory limit."""
        self._docker("update", "--memory", str(memory_bytes), "--memory-swap", "-1", self._container)

    def _docker(self, *words: str) -> str:
        argv = ["docker", "-H", self._socket, *words]
        return commands.run(argv, f"cannot docker {words[0]}", timeout_s=60).decode().strip()

    def pids(self) -> set[int]:
        """The shim that has the container's id in its command line, and all below."""
        for pid in idle.descendants(self._daemon):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes()
                if b"containerd-shim" in words and self._container.encode() in words:
                    return idle.descendants(pid)
        return set()

    def cgroups(self) -> tuple[str, ...]:
        """The container's memory cgroup."""
        found = sorted(self.pids())
        return cgroups.memory_of(found[-1]) if found else ()

    def guest_values(self) -> dict[str, float]:
        """The daemons serve all containers: their share is told apart."""
        everyone = idle.descendants(self._daemon)
        names = {pid: _comm(pid) for pid in everyone}
        daemons = [pid for pid, name in names.items() if name in ("dockerd", "containerd")]
        return {"daemon_pss_bytes": idle.processes(daemons)["pss_bytes"]}


class Docker:
    """`docker run --rm --network none` of the image, imported from the same files."""

    name = "docker"
    daemons: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._daemon: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None
        self._held = contextlib.ExitStack()
        self._images: set[str] = set()

    def why_unavailable(self) -> Unavailable | None:
        """Client, daemon, and root."""
        gone = [name for name in ("docker", "dockerd", "containerd", "runc") if shutil.which(name) is None]
        if gone:
            return Unavailable(f"not installed: {', '.join(gone)}", "make peers")
        return None if os.geteuid() == 0 else Unavailable("dockerd needs root", "run it with sudo")

    def prepare(self, cell: Cell) -> None:
        """Start the daemon, and import the image's files with the guest helper among them."""
        rootfs.sweep()
        rootfs.prepare(cell.image)
        if self._daemon is None:
            self._start()
        if cell.image not in self._images:
            argv = ["docker", "-H", self._socket, "import", "-", _reference(cell.image)]
            for ran in worker.runs(lambda: tar_into(cell.image, argv, None), 1, 180.0):
                if ran.parts[0].status != "ok":
                    raise Failure("cannot import the image into docker", cell.image, ran.parts[0].error or "")
            self._images.add(cell.image)

    # -- the daemon ----------------------------------------------------------------------------------------

    @property
    def _socket(self) -> str:
        return f"unix://{paths.run_dir()}/docker.sock"

    def _start(self) -> None:
        folder = self._folder = self._held.enter_context(rootfs.scratch_folder())
        run = paths.ensure(paths.run_dir())
        words = (
            f"ip link set lo up; exec dockerd --data-root {folder}/data --exec-root {run}/docker-exec"
            f" -H {self._socket} --pidfile {folder}/docker.pid --exec-opt native.cgroupdriver=cgroupfs"
            f" --cgroup-parent /{CGROUP_PARENT} -s overlay2"
        )
        argv = [
            "unshare",
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "sh",
            "-c",
            words,
        ]
        with open(folder / "log", "wb") as log:
            self._daemon = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - no thread runs in a campaign
            )  # fmt: skip
        until_s = time.monotonic() + UP_S
        while not self._answers():
            if time.monotonic() > until_s or self._daemon.poll() is not None:
                tail = (folder / "log").read_text(errors="replace")[-600:]
                self._stop()
                raise DeadlinePassed("dockerd did not come up", why=tail)
            time.sleep(0.1)

    def _answers(self) -> bool:
        argv = ["docker", "-H", self._socket, "version"]
        return subprocess.run(argv, capture_output=True, timeout=20, check=False).returncode == 0

    def _stop(self) -> None:
        if self._daemon is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._daemon.pid, signal.SIGKILL)  # --kill-child: the namespace goes with it
            self._daemon.wait()
        if self._folder is not None:
            _remove_tree(self._folder / "data")
        self._held.close()
        (paths.run_dir() / "docker.sock").unlink(missing_ok=True)
        shutil.rmtree(paths.run_dir() / "docker-exec", ignore_errors=True)
        cgroups.remove(CGROUP_PARENT)
        self._daemon = self._folder = None
        self._images.clear()

    def _docker(self, *words: str, timeout_s: float = 60.0) -> str:
        argv = ["docker", "-H", self._socket, *words]
        return commands.run(argv, f"cannot docker {words[0]}", timeout_s=timeout_s).decode().strip()

    # -- what is measured ----------------------------------------------------------------------------------

    def run_once(self, cell: Cell) -> Parts:
        """`docker run --rm`, the client's start included, as one types it."""
        return command.timed(self.whole_argv(cell)[0], cell, Edges())

    def whole_argv(self, cell: Cell, number: int = 0) -> tuple[list[str], dict[str, str]]:
        """The command line of one of several at once, and its environment."""
        argv = ["docker", "-H", self._socket, "run", "--rm", *_limits(cell), _reference(cell.image)]
        return [*argv, *command.inside(cell)], dict(command.ENV)

    @contextmanager
    def hold(self, cell: Cell) -> Iterator[Held]:
        """`docker run -d`, up when its log has the marker."""
        assert self._daemon is not None
        words = [
            "run",
            "-d",
            *_limits(cell),
            _reference(cell.image),
            *command.under_init(command.resting(cell)),
        ]
        container = self._docker(*words)
        try:
            command.await_text(lambda: self._docker("logs", container), MARKER, cell.deadline_s)
            yield DockerHeld(self._daemon.pid, container, self._socket)
        finally:
            self._docker("rm", "-f", container)

    @contextmanager
    def provisioned(self, cell: Cell) -> Iterator[str]:
        """A container that was created and is never started."""
        container = self._docker("create", *_limits(cell), _reference(cell.image), "/bin/true")
        try:
            yield container
        finally:
            self._docker("rm", "-f", container)

    def disk(self, cell: Cell) -> Parts:
        """The directories that `docker create` adds under the data root."""
        assert self._folder is not None
        parents = [
            self._folder / "data" / name
            for name in ("overlay2", "containers", "image/overlay2/layerdb/mounts")
        ]
        before = disk_use.entries(parents)
        with self.provisioned(cell):
            return Parts(values=disk_use.of(disk_use.entries(parents) - before))

    def rebuild(self, cell: Cell) -> Parts:
        """`docker build` by the classic builder, with all but the last COPY cached."""
        from bench.targets import imaging

        build = ["docker", "-H", self._socket, "build", "-t", "vmm-bench-rebuild"]
        env = {**os.environ, "DOCKER_BUILDKIT": "0"}
        return imaging.rebuild(build, _reference(cell.image), cell, env)

    def cleanup(self) -> None:
        """End the daemon and delete all that it had."""
        self._stop()
        rootfs.sweep()

    def versions(self) -> dict[str, str]:
        """docker's and runc's."""
        server = facts.version_of("dockerd")  # the daemon does the work; the client may be another version
        return {"docker": server, "runc": facts.version_of("runc")}


def tar_into(image: str, argv: list[str], env: dict[str, str] | None) -> Parts:
    """Give the image's files to a program as a tar; runs in a worker, in a mount namespace of its own."""
    with rootfs.mounted(image) as root:
        tar = subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE)
        try:
            done = subprocess.run(
                argv, stdin=tar.stdout, capture_output=True, timeout=170, check=False, env=env
            )
        finally:
            tar.kill()
            tar.wait()
    if done.returncode:
        raise CommandFailed("cannot import", argv, done.returncode, done.stderr.decode(errors="replace"))
    return Parts()


def _limits(cell: Cell) -> list[str]:
    words = ["--network", str(cell.param("network", "none")), "--memory", str(cell.param("memory", "256M"))]
    return [*words, "--cpus", str(cell.param("cpus", 0))] if cell.param("cpus", 0) else words


def _reference(image: str) -> str:
    # docker's names have no capitals, and at least two characters
    return f"vmm-bench-{image.replace(':', '-').lower()}"


def _comm(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def _die_with_parent() -> None:
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)


def _remove_tree(folder: Path) -> None:
    """Delete the data root; its last mounts go when the kernel has ended the namespace, a moment later."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)
