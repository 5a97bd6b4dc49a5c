"""A crowd of idle containers of ours, by whole commands: one start after another, all removed at once."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.core.target import Cell
from bench.targets.ours import PREFIX, supervisors
from host import paths
from host.errors import CommandFailed

SETTLE_S = 5.0


class Crowd:
    """Containers `NAME-0`, `NAME-1` ... that sleep."""

    def __init__(self, vmm: list[str], cell: Cell) -> None:
        self._vmm, self._image = vmm, cell.image
        self._name = f"{PREFIX}-{os.getppid()}-{os.getpid()}-{cell.run}"
        self._words = ["--network", str(cell.param("network", "none"))]
        if cell.param("reaper", False):
            self._words.append("--init")
        self._started: list[str] = []

    def start(self, number: int) -> float:
        """`vmm run -d` of one more; the seconds of the whole command."""
        name = f"{self._name}-{number}"
        self._started.append(name)
        words = ["run", "-d", "--name", name, *self._words, self._image, "sleep", "86400"]
        return self._timed(words)

    def exec_argv(self, number: int) -> tuple[list[str], dict[str, str]]:
        """The command that asks one of them for an answer, and its environment."""
        return [*self._vmm, "exec", self._started[number], "true"], dict(os.environ)

    def remove_all(self) -> float:
        """`vmm rm -f` of all by one command; the seconds that it took. Returns when they have settled."""
        began_s = time.monotonic()
        if self._started:
            self._timed(["rm", "-f", *self._started])
        self._started.clear()
        took_s = time.monotonic() - began_s
        until_s = time.monotonic() + SETTLE_S  # the supervisor ends a second after it has nothing left to do
        while self.supervisors() and time.monotonic() < until_s:
            time.sleep(0.05)
        return took_s

    def supervisors(self) -> int:
        """How many processes supervise detached containers of this home."""
        return len(supervisors())

    def traces(self) -> dict[str, int]:
        """What the host has now of what containers are made of."""
        mounts = Path("/proc/self/mountinfo").read_text().count("\n")
        run = paths.run_dir()
        groups = [one for one in Path("/sys/fs/cgroup").glob(f"*/vmm/{run.name}-*")]
        links = os.listdir("/sys/class/net")
        return {
            "mounts": mounts,
            "cgroups": len(groups),
            "links": len(links),
            "netns": len(_network_namespaces()),
        }

    def _timed(self, words: list[str]) -> float:
        began_s = time.monotonic()
        done = subprocess.run(
            [*self._vmm, *words], stdin=subprocess.DEVNULL, capture_output=True, timeout=600, check=False
        )
        took_s = time.monotonic() - began_s
        if done.returncode:
            said = done.stderr.decode(errors="replace")
            raise CommandFailed(f"cannot {words[0]} the crowd", words[:4], done.returncode, said)
        return took_s


@contextmanager
def made(vmm: list[str], cell: Cell) -> Iterator[Crowd]:
    """A crowd that is gone when the context ends."""
    crowd = Crowd(vmm, cell)
    try:
        yield crowd
    finally:
        with contextlib.suppress(CommandFailed):
            crowd.remove_all()


def _network_namespaces() -> set[str]:
    """The network namespaces that a process is in."""
    found = set()
    for folder in os.listdir("/proc"):
        if folder.isdigit():
            with contextlib.suppress(OSError):
                found.add(os.readlink(f"/proc/{folder}/ns/net"))
    return found
