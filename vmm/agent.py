"""The QEMU guest agent: a conversation over its port (QEMU Guest Agent Protocol Reference)."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from host.errors import DeadlinePassed, Failure, Unsupported
from host.exec_request import ExecRequest
from host.stdio import Stdio
from vmm import process

if TYPE_CHECKING:
    from vmm.machine import Machine

_ANSWER_S = 5.0
_PAUSE_S = 0.05
_SIGNALLED = 128


class Agent:
    """A conversation with qemu-ga over its socket."""

    def __init__(self, path: Path, timeout_s: float = _ANSWER_S) -> None:
        try:
            self._line = process.call(path)
        except OSError as error:
            raise DeadlinePassed("cannot reach the guest agent", why=error.strerror or "") from None
        self._line.settimeout(timeout_s)
        self._file = self._line.makefile("rb")
        try:
            # What an earlier client left half said ends at 0xff; the answer with our number is the first of
            # ours.
            number = time.monotonic_ns() & 0x7FFFFFFF
            self._line.sendall(b"\xff")
            self._ask("guest-sync-delimited", {"id": number}, number)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Hang up."""
        self._file.close()
        self._line.close()

    def _ask(self, command: str, arguments: dict[str, Any], wanted: object = None) -> Any:
        request = {"execute": command, "arguments": arguments}
        try:
            self._line.sendall(json.dumps(request).encode() + b"\n")
            while True:
                reply = json.loads(self._file.readline().lstrip(b"\xff") or b"{}")
                if "error" in reply and wanted is not None:
                    continue  # it speaks of what was half said before, and of our 0xff
                if "error" in reply:
                    raise Failure(f"the guest agent refused {command}", why=reply["error"].get("desc", ""))
                if not reply:
                    raise DeadlinePassed("the guest agent hung up")
                if wanted is None or reply.get("return") == wanted:
                    return reply["return"]
        except TimeoutError:
            raise DeadlinePassed("the guest agent did not answer", why=f"after {_ANSWER_S:g} s") from None

    def run(self, argv: tuple[str, ...], env: tuple[str, ...]) -> tuple[int, bytes, bytes]:
        """Run a command to its end; status (128 + n after signal n), stdout, stderr."""
        asked = {"path": argv[0], "arg": list(argv[1:]), "env": list(env), "capture-output": True}
        pid = self._ask("guest-exec", asked)["pid"]
        while not (told := self._ask("guest-exec-status", {"pid": pid}))["exited"]:
            time.sleep(_PAUSE_S)
        out, err = (base64.b64decode(told.get(name, "")) for name in ("out-data", "err-data"))
        status = _SIGNALLED + told["signal"] if "signal" in told else told.get("exitcode", 0)
        return status, out, err


@contextlib.contextmanager
def enter(machine: Machine) -> Iterator[Callable[[ExecRequest, Stdio], int]]:
    """A way in by the guest agent: what it yields runs one command."""
    agent = Agent(machine.run_dir / "agent")
    try:
        yield lambda request, stdio: _run(agent, machine.folder.name, request, stdio)
    finally:
        agent.close()


def _run(agent: Agent, name: str, request: ExecRequest, stdio: Stdio) -> int:
    if request.tty or request.interactive:
        hint = f"vmm console {name} is a terminal"
        raise Unsupported("the guest agent takes no input and has no terminal", name, hint=hint)
    # guest-exec knows neither directory nor user: a shell in the guest does
    words = ("sh", "-c", 'cd "$1" || exit 125; shift; "$@"; exit $?', "sh", request.cwd or "/", *request.argv)
    if request.user not in ("", "root", "0"):
        raise Unsupported("the guest agent runs as root only", name, hint="leave --user out")
    status, out, err = agent.run(words, request.env)
    os.write(stdio.stdout, out)
    os.write(stdio.stderr, err)
    return status
