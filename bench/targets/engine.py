"""The engine in a process that holds nothing else: `python -m bench.targets.engine`, the request on stdin.

clone(2) copies the page tables of whoever calls it and, as they are written, the pages: in a fork of the
campaign scipy's memory would be charged to the container. A first container, not counted, warms the imports.
"""

from __future__ import annotations

import gc
import json
import os
import pickle
import signal
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from host.edges import Edges
from host.errors import Failure
from host.stdio import Stdio

if TYPE_CHECKING:
    from instances.requests import RunRequest

TELL_FD = 3
Env = Mapping[str, str] | None


def spawn(
    request: RunRequest, out: int, err: int, tell: int, python: tuple[str, ...] = (), env: Env = None
) -> int:
    """Start the engine's process and return its pid; `tell` gets the report of `report`.

    `python` is the command that starts the interpreter, ours in isolated mode where none is given.
    """
    asked = os.memfd_create("request", os.MFD_CLOEXEC)
    try:
        os.write(asked, pickle.dumps(request))
        os.lseek(asked, 0, os.SEEK_SET)
        actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate((asked, out, err, tell))]
        argv = [*(python or (sys.executable, "-I")), "-m", "bench.targets.engine"]
        return os.posix_spawnp(argv[0], argv, env or os.environ, file_actions=actions)
    finally:
        os.close(asked)


def report(run: Callable[[Stdio, Edges], int], stdio: Stdio, tell_fd: int) -> NoReturn:
    """Call `run`, tell its status, edges and error as JSON, and end; never back into the caller's code."""
    edges = Edges()
    told: dict[str, Any] = {}
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        told["status"] = run(stdio, edges)
    except Failure as error:
        told |= {"error": str(error)[-4000:], "hint": error.hint or None}
    except BaseException as error:
        told["error"] = repr(error)[-4000:]
    try:
        data = json.dumps({**told, "stamps_ns": edges.stamps_ns}).encode()
        while data:
            data = data[os.write(tell_fd, data) :]
    finally:
        os._exit(0)


def main() -> NoReturn:
    """Read the request, warm up, run it."""
    from instances import runs

    gc.set_threshold(50_000)  # as the command does: cli.main.entry
    request: RunRequest = pickle.load(sys.stdin.buffer)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.set_inheritable(TELL_FD, False)

    def run(stdio: Stdio, edges: Edges) -> int:
        runs.run(request._replace(name=f"{request.name}-warm"), Stdio(null, null, null), Edges())
        return runs.run(request, stdio, edges)

    report(run, Stdio(0, 1, 2), TELL_FD)


if __name__ == "__main__":
    main()
