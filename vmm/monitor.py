"""A small blocking QMP client for the hot path: one socket, one command at a time, a deadline on each.

`run`, `exec` and `ls` must not pay for asyncio, which qemu.qmp stands on (63 ms of imports), so what they ask
(greeting, query-status, cont, quit) goes through here: newline-separated JSON, as the QMP specification
(docs/interop/qmp-spec.txt) has it. Everything that waits for events or runs jobs uses `vmm.qmp`, which wraps
qemu.qmp.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from host.errors import BadData, DeadlinePassed, Failure, WrongState

Reply = dict[str, Any]
JOURNAL = "qmp"  # in the run directory: the commands of the control monitor, one a line


class Monitor:
    """A QMP conversation over a connected unix socket; `events` keeps what QEMU said in between.

    Each command is a line of `journal`, where one is given; of the same one over and over only the first.
    """

    def __init__(self, connection: socket.socket, name: str, journal: Path | None = None) -> None:
        self.name, self.events = name, list[Reply]()
        self._journal, self._noted, self._requests = journal, "", 0
        self._socket, self._buffer = connection, b""
        self._posted: list[Reply] = []
        connection.setblocking(False)

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; QEMU takes the next client."""
        self._socket.close()

    def fileno(self) -> int:
        """The socket's descriptor, for poll(2)."""
        return self._socket.fileno()

    def post(self, orders: Iterable[tuple[str, Reply]]) -> None:
        """Send commands before QEMU listens, which takes them by itself as soon as it does.

        `greet` reads the greeting before them, `settle` their replies.
        """
        first: tuple[str, Reply] = ("qmp_capabilities", {})
        self._posted = [self._request(command, arguments) for command, arguments in (first, *orders)]
        self._send(self._posted, None)

    def settle(self, timeout_s: float) -> bool:
        """Read the replies to what was posted, each of which must succeed; False where nothing was."""
        deadline = time.monotonic() + timeout_s
        posted, self._posted = self._posted, []
        for request in posted:
            self._reply(request, deadline)
        return bool(posted)

    def greet(self, timeout_s: float) -> Reply:
        """Read QEMU's greeting and enter command mode; returns the greeting.

        Raises DeadlinePassed, or WrongState when QEMU hangs up first.
        """
        deadline = time.monotonic() + timeout_s
        while "QMP" not in (greeting := self._read(deadline, "the greeting")):
            # QEMU gives the answer that it owed a client that was killed to whoever comes next
            if not greeting.keys() & {"return", "error", "event"}:
                raise BadData("cannot talk to QEMU", self.name, "it did not greet in QMP")
        if self._posted:
            self._reply(self._posted.pop(0), deadline)
        else:
            self.execute("qmp_capabilities", timeout_s=timeout_s)
        return greeting

    def execute(
        self, command: str, arguments: Reply | None = None, timeout_s: float = 5.0, fd: int | None = None
    ) -> Any:
        """Send one command, with a descriptor for getfd, and return its reply.

        Raises Failure with QEMU's own words when it refuses.
        """
        deadline = time.monotonic() + timeout_s
        request = self._request(command, arguments)
        self._send([request], fd)
        return self._reply(request, deadline)

    def execute_all(
        self, orders: Iterable[tuple[str, Reply]], fd: int | None = None, timeout_s: float = 5.0
    ) -> None:
        """Send commands in one breath, with a descriptor for the one getfd among them; each must succeed.

        QEMU reads its monitor byte by byte, and the wait for each reply is one more turn of both.
        """
        deadline = time.monotonic() + timeout_s
        requests = [self._request(command, arguments) for command, arguments in orders]
        self._send(requests, fd)
        for request in requests:
            self._reply(request, deadline)

    def await_running(self, timeout_s: float) -> None:
        """Wait until the guest's processors run: they begin once an incoming state is read.

        Raises WrongState where QEMU ends instead, DeadlinePassed.
        """
        deadline = time.monotonic() + timeout_s
        while not any(event["event"] == "RESUME" for event in self.events):
            said = self._read(deadline, "a running guest")
            if "event" in said:
                self.events.append(said)

    def _send(self, requests: list[Reply], fd: int | None) -> None:
        try:
            words = b"".join(json.dumps(one, separators=(",", ":")).encode() + b"\n" for one in requests)
            for one in requests:
                self._note(one)
            if fd is not None:
                words = words[socket.send_fds(self._socket, [words], [fd]) :]
            self._socket.sendall(words)
        except OSError as error:
            raise WrongState("cannot ask QEMU", self.name, error.strerror or str(error)) from None

    def _request(self, command: str, arguments: Reply | None) -> Reply:
        self._requests += 1
        request: Reply = {"execute": command, "id": f"{os.getpid()}.{self._requests}"}
        return {**request, "arguments": arguments} if arguments else request

    def _reply(self, request: Reply, deadline: float) -> Any:
        """The reply that bears the request's id: one that a killed client left may come before it."""
        command = request["execute"]
        while True:
            reply = self._read(deadline, f"the reply to {command}")
            if "event" in reply:
                self.events.append(reply)
            elif reply.get("id") != request["id"]:
                continue
            elif "error" in reply:
                raise Failure(f"QEMU refused {command} of", self.name, str(reply["error"].get("desc", "")))
            elif "return" in reply:
                return reply["return"]

    def _note(self, request: Reply) -> None:
        line = told(request)
        if self._journal is not None and line != self._noted:
            self._noted = line
            note(self._journal, line)

    def _read(self, deadline: float, what: str) -> Reply:
        while b"\n" not in self._buffer:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not select.select([self._socket], [], [], left_s)[0]:
                raise DeadlinePassed("QEMU did not answer for", self.name, f"no sign of {what}")
            try:
                data = self._socket.recv(1 << 16)
            except OSError:
                data = b""
            if not data:
                raise WrongState("QEMU hung up on", self.name, f"before {what}")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            reply = json.loads(line)
        except ValueError as error:
            raise BadData("cannot read QEMU's reply for", self.name, str(error)) from None
        if not isinstance(reply, dict):
            raise BadData("cannot read QEMU's reply for", self.name, "not a JSON object")
        return reply


def told(request: Reply) -> str:
    """A QMP request as one line for people."""
    arguments = request.get("arguments")
    return f"{request['execute']} {json.dumps(arguments)}" if arguments else str(request["execute"])


def note(journal: Path, line: str) -> None:
    """Add a line to the journal of a machine's commands."""
    # libvirt's QEMU owns its run directory, and may lay a link there
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    with contextlib.suppress(OSError):
        fd = os.open(journal, flags, 0o644)
        os.write(fd, f"{line}\n".encode())
        os.close(fd)


def connect(path: Path, timeout_s: float, journal: Path | None = None) -> Monitor:
    """A monitor that has greeted; FileNotFoundError or ConnectionRefusedError where no QEMU listens."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connection.settimeout(timeout_s)
        connection.connect(str(path))
        monitor = Monitor(connection, path.parent.name, journal)
        monitor.greet(timeout_s)
    except BaseException:
        connection.close()
        raise
    return monitor


_STATUS = re.compile(rb'"return": \{[^}]*"status": "([a-z-]+)"')
# What query-status says, in the words of `vmm ls`.
_STATES = {
    "running": "running",
    "paused": "paused",
    "prelaunch": "paused",
    "inmigrate": "paused",
    "postmigrate": "paused",
    "suspended": "paused",
    "io-error": "paused",
    "save-vm": "running",
    "restore-vm": "running",
    "finish-migrate": "running",
    "debug": "paused",
    "shutdown": "exited",
    "guest-panicked": "exited",
    "internal-error": "unresponsive",
    "watchdog": "paused",
}


# Why a machine stands still, where it was not `vmm pause`.
_REASONS = {
    "io-error": "a disk could not be written; free space on the host, then vmm resume NAME goes on",
    "guest-panicked": "the guest kernel panicked; vmm logs NAME",
    "postmigrate": "a migration was cut off; vmm resume NAME goes on",
    "internal-error": "QEMU met an internal error; vmm kill NAME",
    "watchdog": "the guest's watchdog expired",
}


def trouble(path: Path, timeout_s: float = 0.2) -> str:
    """Why QEMU has stopped the guest by itself, or an empty string."""
    try:
        return _REASONS.get(_status(path, timeout_s), "")
    except OSError:
        return ""


def state(path: Path, timeout_s: float = 0.2, asked: socket.socket | None = None) -> str:
    """What QEMU itself says within 200 ms, in our words, else `unresponsive`; `exited` where none listens.

    `asked` is what `ask` gave, where the question is on its way already.
    """
    try:
        said = _answer(asked, timeout_s) if asked else _status(path, timeout_s)
        return _STATES.get(said, "unresponsive")
    except (FileNotFoundError, ConnectionRefusedError):
        return "exited"
    except OSError:
        return "unresponsive"


# Asked in one breath: QEMU takes its requests in order, and a list of a hundred machines pays each wait.
_ASK = b'{"execute": "qmp_capabilities"}\n{"execute": "query-status"}\n'


def _status(path: Path, timeout_s: float) -> str:
    """The word of query-status within `timeout_s`, empty after a hang-up; OSError where QEMU is silent."""
    return _answer(ask(path, timeout_s), timeout_s)


def ask(path: Path, timeout_s: float = 0.2) -> socket.socket:
    """Put the question after its status to the QEMU behind `path`; OSError where none listens."""
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        line.settimeout(timeout_s)
        line.connect(str(path))
        line.sendall(_ASK)
    except BaseException:
        line.close()
        raise
    return line


def _answer(line: socket.socket, timeout_s: float) -> str:
    deadline = time.monotonic() + timeout_s
    with line:
        said = b""
        while not (found := _STATUS.search(said)):
            line.settimeout(max(0.001, deadline - time.monotonic()))
            data = line.recv(1 << 12)
            if not data:
                return ""
            said += data
    return found[1].decode()
