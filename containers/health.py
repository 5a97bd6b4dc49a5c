"""Health checks: a command run inside every so often, and what follows when it fails too often in a row."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, Any

from containers import detached, restarts
from host import records
from host.errors import Failure
from host.stdio import Stdio

if TYPE_CHECKING:
    from containers.container import Container

_LOOK_S = 0.05
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
            os.kill(self.pid, signal.SIGKILL)  # its command inside dies with it (PDEATHSIG)
            os.waitpid(self.pid, 0)
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
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            os.close(self.out)
            self.pid = 0
