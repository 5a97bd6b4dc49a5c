"""Containers of a busybox root, started in this very process."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from capabilities import need

from containers.container import Container
from containers.spec import ContainerSpec
from host import paths
from host.edges import Edges
from host.stdio import Stdio


@pytest.fixture(scope="session")
def rootfs() -> Iterator[Path]:
    """A root of one static busybox and its links, readable by every user."""
    need("busybox")
    root = Path(tempfile.mkdtemp(prefix="vmm-rootfs-", dir="/tmp"))
    for name in ("bin", "etc", "tmp", "usr/bin"):
        (root / name).mkdir(parents=True)
    busybox = shutil.copy("/bin/busybox", root / "bin")
    for name in subprocess.run(
        [busybox, "--list"], capture_output=True, text=True, check=True
    ).stdout.split():
        if name != "busybox":
            os.symlink("busybox", root / "bin" / name)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nann:x:1000:\naudio:x:29:ann\n")
    (root / "bin/plain").write_text("no program\n")
    (root / "tmp").chmod(0o1777)
    root.chmod(0o755)
    yield root
    shutil.rmtree(root)


class Lab:
    """Make containers in one home, and run them with their output caught."""

    def __init__(self, home: Path, rootfs: Path) -> None:
        self.home, self.rootfs = home, rootfs
        self.made: list[Container] = []
        home.mkdir(exist_ok=True)

    def make(self, *argv: str, name: str = "c1", **wishes: Any) -> Container:
        """A container that was not started yet."""
        folder = paths.instances_dir(self.home) / name
        folder.mkdir(parents=True, exist_ok=True)
        wishes.setdefault("lower_dirs", (str(self.rootfs),))
        wishes.setdefault("ephemeral", True)
        spec = ContainerSpec(name=name, argv=argv, **wishes)
        container = Container(folder, paths.run_dir(self.home) / name, spec)
        self.made.append(container)
        return container

    def shell(self, script: str, **wishes: Any) -> tuple[int, str]:
        """Run a shell script in a container of its own; its status and what it wrote to both streams."""
        return self.run(self.make("/bin/sh", "-c", script, **wishes))

    def run(
        self, container: Container, stdin: bytes | None = None, edges: Edges | None = None
    ) -> tuple[int, str]:
        """Run a container in the foreground."""
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as given:
            given.write(stdin or b"")
            given.seek(0)
            stdio = Stdio(given.fileno(), output.fileno(), output.fileno(), interactive=stdin is not None)
            status = container.run(stdio, edges or Edges())
            output.seek(0)
            return status, output.read().decode(errors="replace")

    def exec(self, container: Container, *argv: str, **wishes: Any) -> tuple[int, str]:
        """Run a command in a running container."""
        from host.exec_request import ExecRequest

        with tempfile.TemporaryFile() as output:
            stdio = Stdio(0, output.fileno(), output.fileno())
            status = container.exec(ExecRequest(argv, **wishes), stdio)
            output.seek(0)
            return status, output.read().decode(errors="replace")

    def logs(self, container: Container, **wishes: Any) -> str:
        """What a detached container said."""
        with tempfile.TemporaryFile() as output:
            container.logs(
                wishes.get("follow", False),
                wishes.get("tail"),
                wishes.get("timestamps", False),
                output.fileno(),
                wishes.get("since", 0),
            )
            output.seek(0)
            return output.read().decode(errors="replace")

    def close(self) -> None:
        """End and remove whatever a test left."""
        for container in self.made:
            if container.pid() is not None:
                container.stop(0)
            container.remove()


@pytest.fixture(autouse=True)
def same_signal_mask() -> Iterator[None]:
    """Whatever happens, our signals are blocked and handled as before."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    handlers = {
        number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
    }
    yield
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    assert handlers == {number: signal.getsignal(number) for number in handlers}


@pytest.fixture
def lab(home: Path, rootfs: Path) -> Iterator[Lab]:
    """Containers as root, in a home of their own."""
    need("root", "overlay", "cgroup")
    made = Lab(home, rootfs)
    yield made
    made.close()


@pytest.fixture
def in_background() -> Iterator[Callable[[Callable[[], object]], int]]:
    """Run something in a forked child; it is killed in the end."""
    pids: list[int] = []

    def start(what: Callable[[], object]) -> int:
        pid = os.fork()
        if pid == 0:
            try:
                what()
            finally:
                os._exit(0)
        pids.append(pid)
        return pid

    yield start
    for pid in pids:
        try:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
