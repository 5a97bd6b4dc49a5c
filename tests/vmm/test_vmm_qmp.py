"""Both QMP clients against a QEMU that misbehaves, over a real socket pair."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from host.errors import DeadlinePassed, Failure, WrongState
from vmm.monitor import Monitor
from vmm.qmp import Session

GREETING = {
    "QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}, "capabilities": []}
}
EVENT = {"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}}
Script = Callable[["Speaker"], None]


class Speaker:
    """QEMU's side of the pair, for a test to write down."""

    def __init__(self, line: socket.socket) -> None:
        self.line, self._heard = line, ""

    def say(self, message: dict[str, Any]) -> None:
        self.line.sendall(json.dumps(message).encode() + b"\n")

    def hear(self) -> dict[str, Any]:
        # QMP ends a message where its JSON ends: qemu.qmp sends no newline.
        while True:
            try:
                message, end = json.JSONDecoder().raw_decode(self._heard)
            except ValueError:
                data = self.line.recv(4096)
                assert data, "the client hung up"
                self._heard += data.decode()
                continue
            self._heard = self._heard[end:].lstrip()
            return dict(message)

    def wait_for_hang_up(self) -> None:
        while self.line.recv(4096):
            pass

    def answer(self, value: Any = None, before: dict[str, Any] | None = None) -> None:
        request = self.hear()
        if before:
            self.say(before)
        reply = {"return": {} if value is None else value}
        self.say(reply | ({"id": request["id"]} if "id" in request else {}))

    def greet(self) -> None:
        self.say(GREETING)
        self.answer()


@contextmanager
def qemu(script: Script) -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()

    def speak() -> None:
        with theirs:
            script(Speaker(theirs))

    thread = threading.Thread(target=speak)
    thread.start()
    try:
        yield ours
    finally:
        ours.close()
        thread.join(10)
        assert not thread.is_alive()


def by_monitor(line: socket.socket, timeout_s: float) -> Any:
    with Monitor(line, "m") as monitor:
        monitor.greet(timeout_s)
        return monitor.execute("query-status", timeout_s=timeout_s)


def by_session(line: socket.socket, timeout_s: float) -> Any:
    with Session(line, "m", timeout_s) as session:
        return session.execute("query-status", timeout_s=timeout_s)


both = pytest.mark.parametrize("ask", [by_monitor, by_session])
Ask = Callable[[socket.socket, float], Any]


@both
def test_an_event_before_the_reply_is_not_the_reply(ask: Ask) -> None:
    def script(it: Speaker) -> None:
        it.greet()
        it.answer({"status": "running"}, before=EVENT)
        it.wait_for_hang_up()

    with qemu(script) as line:
        assert ask(line, 5.0) == {"status": "running"}


def test_an_event_that_came_early_is_not_lost() -> None:
    def script(it: Speaker) -> None:
        it.greet()
        it.answer({}, before=EVENT)
        it.wait_for_hang_up()

    with qemu(script) as line, Session(line, "m") as session:
        session.execute("stop")
        assert session.wait_event(["STOP"], 5.0)["event"] == "STOP"


@both
def test_a_hang_up_before_the_greeting_is_told(ask: Ask) -> None:
    with qemu(lambda _: None) as line, pytest.raises(WrongState, match="hung up"):
        ask(line, 5.0)


@both
def test_a_hang_up_while_waiting_is_told(ask: Ask) -> None:
    def script(it: Speaker) -> None:
        it.greet()
        it.hear()

    with qemu(script) as line, pytest.raises(WrongState, match="hung up"):
        ask(line, 5.0)


@both
def test_silence_ends_at_the_deadline(ask: Ask) -> None:
    def script(it: Speaker) -> None:
        it.greet()
        it.wait_for_hang_up()

    with qemu(script) as line, pytest.raises(DeadlinePassed, match="reply to query-status"):
        ask(line, 0.3)


@both
def test_no_greeting_ends_at_the_deadline(ask: Ask) -> None:
    with qemu(Speaker.wait_for_hang_up) as line, pytest.raises(DeadlinePassed, match="greeting"):
        ask(line, 0.3)


@both
def test_a_refusal_carries_qemus_own_words(ask: Ask) -> None:
    def script(it: Speaker) -> None:
        it.greet()
        request = it.hear()
        error = {"class": "GenericError", "desc": "Device 'x' not found"}
        it.say({"error": error} | ({"id": request["id"]} if "id" in request else {}))
        it.wait_for_hang_up()

    with qemu(script) as line, pytest.raises(Failure, match="Device 'x' not found"):
        ask(line, 5.0)


def test_a_job_that_failed_raises_its_own_error() -> None:
    def script(it: Speaker) -> None:
        it.greet()
        it.answer({})
        it.answer([{"id": "j", "type": "snapshot-save", "status": "concluded", "error": "No space left"}])
        it.answer({})
        it.wait_for_hang_up()

    with qemu(script) as line, Session(line, "m") as session, pytest.raises(Failure, match="No space left"):
        session.run_job("snapshot-save", {"tag": "t"}, 5.0, "j")


def test_an_answer_that_a_killed_client_left_is_nobodys() -> None:
    """QEMU gives what it owed a client that is gone to the next one: before the greeting, or after it."""
    ours, qemu = socket.socketpair()

    def serve() -> None:
        qemu.sendall(b'{"return": ["of another"], "id": "1.7"}\n{"QMP": {"version": {}}}\n')
        lines = qemu.makefile("rb")
        for answer in ({}, ["our own"]):
            asked = json.loads(lines.readline())
            stale = {"return": ["of another"], "id": "1.8"}
            said = {"return": answer, "id": asked["id"]}
            qemu.sendall(b"".join(json.dumps(one).encode() + b"\n" for one in (stale, said)))

    server = threading.Thread(target=serve)
    server.start()
    with Monitor(ours, "m") as monitor:
        assert "QMP" in monitor.greet(2)
        assert monitor.execute("query-chardev") == ["our own"]
    server.join()
    qemu.close()
