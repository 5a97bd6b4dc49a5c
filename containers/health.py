"""Health checks: a command run inside every so often, and what follows when it fails too often in a row."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from containers import detached, restarts
from host import records
from host.errors import Failure
from host.stdio import Stdio

if TYPE_CHECKING:
    from containers.container import Container

_LOOK_S = 0.05
_GRACE_S = 2.0
_KEPT_RESULTS, _KEPT_BYTES = 5, 4096


class Checker:
    """The checks of one container; `due` is the monotonic time of the next look. Never blocks its caller."""

    def __init__(self, container: Container) -> None:
        health = container.spec.health
        assert health is not None
        self.container, self.health = container, health
        self.began = time.monotonic()
        self.due = self.began + health.interval_s
        self.pid = 0
        self.state: dict[str, Any] = {"status": "starting", "failing": 0, "results": []}
        self._write()

    def check(self) -> None:
        """Start a check that is due, or look after the one that runs."""
        if not self.pid:
            self._begin()
        elif time.monotonic() > self.deadline:
            _end(self.pid)
            self._note(-1, f"no answer within {self.health.timeout_s:g} s")
        else:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                self._note(os.waitstatus_to_exitcode(status), self._output())
            else:
                self.due = time.monotonic() + _LOOK_S

    def _begin(self) -> None:
        self.out, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.pid = os.fork()
        if self.pid == 0:
            self._run(write)
        os.close(write)
        self.deadline = time.monotonic() + self.health.timeout_s
        self.due = time.monotonic() + _LOOK_S

    def _run(self, write: int) -> None:
        """In a child of the supervisor: enter, run, and leave with the command's status."""
        status = 125
        try:
            from host.exec_request import ExecRequest

            null = os.open(os.devnull, os.O_RDONLY)
            status = self.container.exec(ExecRequest(self.health.argv), Stdio(null, write, write))
        except Failure as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(status & 0xFF)

    def _output(self) -> str:
        try:
            return os.read(self.out, _KEPT_BYTES).decode(errors="replace")
        except BlockingIOError:
            return ""

    def _note(self, status: int, output: str) -> None:
        os.close(self.out)
        self.pid = 0
        self.due = time.monotonic() + self.health.interval_s
        starting = time.monotonic() - self.began < self.health.start_period_s
        state = self.state
        state["results"] = [*state["results"], {"unix_s": time.time(), "status": status, "output": output}]
        state["results"] = state["results"][-_KEPT_RESULTS:]
        if status == 0:
            state.update(status="healthy", failing=0)
        elif not (starting and state["status"] == "starting"):
            state["failing"] += 1
        self._write()
        if state["failing"] >= self.health.retries and state["status"] != "unhealthy":
            state["status"] = "unhealthy"
            self._write()
            self._act()

    def _act(self) -> None:
        action = self.health.action
        with contextlib.suppress(Failure):
            if action == "restart":
                restarts.mark_unhealthy(self.container)
                detached.end(self.container)
            elif action in ("kill", "stop"):
                restarts.mark_stopped(self.container)
                detached.end(self.container)

    def _write(self) -> None:
        if self.container.run_dir.is_dir():
            records.write(self.container.run_dir / "health.json", self.state, durable=False)

    def close(self) -> None:
        """End a check that still runs."""
        if self.pid:
            _end(self.pid)
            os.close(self.out)
            self.pid = 0


def _end(pid: int) -> None:
    """End a check: its command inside first, which the process that entered for it then reaps.

    Orphaned, the command would be the host's init's to reap, and the container's own init cannot end before
    everything in its pid namespace is reaped (pid_namespaces(7)).
    """
    for inside in _entered(pid, os.readlink("/proc/self/ns/pid")):
        with contextlib.suppress(ProcessLookupError):
            os.kill(inside, signal.SIGKILL)
    until = time.monotonic() + _GRACE_S
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return
        time.sleep(0.002)


def _entered(pid: int, outside: str) -> list[int]:
    """The first processes below `pid` that are in another pid namespace."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            child = int(word)
            there = os.readlink(f"/proc/{child}/ns/pid") != outside
            found += [child] if there else _entered(child, outside)
    return found
