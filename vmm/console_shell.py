"""A command typed at the shell that stands on the serial console: the last way in, an emergency shell, say.

Only a prompt proves a shell; a login prompt is none. Output of both kinds comes as one, as on any terminal.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import select
import shlex
import socket
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from host.errors import DeadlinePassed, Unsupported
from host.exec_request import ExecRequest
from host.stdio import Stdio
from vmm import process

if TYPE_CHECKING:
    from vmm.machine import Machine

_PROMPT = re.compile(rb"[#$] (?:\x1b\[[0-9;?]*[a-zA-Z])*$")
_PROMPT_S = 3.0
_READ_BYTES = 4096


@contextlib.contextmanager
def enter(machine: Machine) -> Iterator[Callable[[ExecRequest, Stdio], int]]:
    """A way in by the console: what it yields types one command. DeadlinePassed where no shell prompts."""
    name = machine.folder.name
    try:
        line = process.call(machine.run_dir / "serial")
    except OSError as error:
        raise DeadlinePassed("cannot reach the console of", name, error.strerror or "") from None
    with line:
        _await_prompt(line, name)
        yield lambda request, stdio: _run(line, name, request, stdio)


def _await_prompt(line: socket.socket, name: str) -> None:
    line.sendall(b"\r")
    said, deadline = b"", time.monotonic() + _PROMPT_S
    while not _PROMPT.search(said):
        data = _read(line, deadline)
        if not data:
            last = said.decode(errors="replace").strip().rpartition("\n")[2]
            why = f"no shell shows a prompt, the console says {last!r}"
            raise DeadlinePassed("cannot type at the console of", name, why)
        said += data
    _discard(line)


def _read(line: socket.socket, deadline: float | None) -> bytes:
    left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
    return line.recv(_READ_BYTES) if select.select([line], [], [], left_s)[0] else b""


def _discard(line: socket.socket) -> None:
    while _read(line, time.monotonic() + 0.1):
        pass


def typed(request: ExecRequest, mark: str) -> bytes:
    """The line to type; `mark` stands around the output, never whole in the line that the terminal echoes."""
    words = shlex.join(["env", *request.env, *request.argv] if request.env else request.argv)
    into = f"cd {shlex.quote(request.cwd)} && " if request.cwd else ""
    first, rest = mark[:4], mark[4:]
    say = f"printf '%s%s' {first} {rest}"
    return f"{say}; ({into}{words}) </dev/null; printf '%s%s%s;' {first} {rest} $?\r".encode()


def _run(line: socket.socket, name: str, request: ExecRequest, stdio: Stdio) -> int:
    if request.tty or request.interactive:
        hint = f"vmm console {name} is that terminal"
        raise Unsupported("a command on the console takes no input of ours", name, hint=hint)
    if request.user not in ("", "root", "0"):
        raise Unsupported("the shell on the console has its own user", name, hint="leave --user out")
    mark = f"vmm{secrets.token_hex(8)}"
    line.sendall(typed(request, mark))
    said = b""
    while not (found := re.search(rf"{mark}(.*?){mark}(\d+);".encode(), said, re.DOTALL)):
        data = _read(line, None)
        if not data:
            raise DeadlinePassed("the console hung up on", name, "before the command had ended")
        said += data
    os.write(stdio.stdout, found[1].replace(b"\r\n", b"\n"))
    return int(found[2])
