"""The host's side against a fake helper on a socketpair: every way in which the other end can disappoint."""

import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from host.errors import BadData, DeadlinePassed, Failure
from host.exec_request import ExecRequest
from host.stdio import Stdio
from vmm import channel, frames


class Ear:
    """Frames that arrive, one after another."""

    def __init__(self, link: socket.socket) -> None:
        self._link, self._decoder = link, frames.Decoder()
        self._heard: list[frames.Frame] = []

    def next(self, type_: int = 0) -> frames.Frame:
        """The next frame (of that type: others are passed over)."""
        while True:
            while self._heard:
                frame = self._heard.pop(0)
                if not type_ or frame.type == type_:
                    return frame
            data = self._link.recv(65536)
            if not data:
                raise ConnectionError("the host hung up")
            self._heard += self._decoder.feed(data)


Speech = Callable[[socket.socket, Ear], None]


class Fake:
    """The other end: a thread that says what a test tells it to."""

    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair()
        self.channel = channel.connect(ours)
        self._threads: list[threading.Thread] = []

    def says(self, speech: Speech) -> None:
        thread = threading.Thread(target=speech, args=(self.theirs, Ear(self.theirs)))
        thread.start()
        self._threads.append(thread)

    def end(self) -> None:
        self.channel.close()
        for thread in self._threads:
            thread.join(10)
        self.theirs.close()


@pytest.fixture
def fake() -> Iterator[Fake]:
    one = Fake()
    yield one
    one.end()


@pytest.fixture
def output() -> Iterator[tuple[Stdio, int]]:
    """Stdio whose stdout and stderr are one pipe, and the pipe's reading end."""
    read_end, write_end = os.pipe()
    null = os.open(os.devnull, os.O_RDONLY)
    yield Stdio(null, write_end, write_end), read_end
    for fd in (null, read_end, write_end):
        os.close(fd)


def welcome(nonce: bytes, version: int = frames.VERSION) -> bytes:
    return frames.encode(frames.WELCOME, 0, nonce + struct.pack("<IIQQQQ", version, 0, 10, 1000, 1000, 5))


def exits(id_: int, status: int, error: int = 0, words: bytes = b"") -> bytes:
    return frames.encode(frames.EXIT, id_, struct.pack("<II", status, error) + words)


def greets(link: socket.socket, ear: Ear) -> None:
    link.sendall(welcome(ear.next(frames.HELLO).payload))


def test_hello_tells_the_guests_clocks(fake: Fake) -> None:
    fake.says(greets)
    hello = fake.channel.hello(5)
    assert (hello.version, hello.system_mode, hello.boottime_ns) == (1, False, 1000)
    assert hello.kernel_entry_ns == hello.received_ns - 1000
    assert hello.host_ns(hello.began_boottime_ns) == hello.received_ns - 990


def test_greetings_meant_for_an_earlier_host_are_passed_over(fake: Fake) -> None:
    def speech(link: socket.socket, ear: Ear) -> None:
        nonce = ear.next(frames.HELLO).payload
        link.sendall(
            b"half a fr" + frames.MAGIC + welcome(b"\0" * 8) + frames.encode(frames.STDOUT, 3, b"old")
        )
        time.sleep(0.05)
        link.sendall(welcome(nonce))

    fake.says(speech)
    began = time.monotonic_ns()
    assert fake.channel.hello(5).received_ns - began > 40e6


def test_hang_up_before_hello(fake: Fake) -> None:
    fake.theirs.shutdown(socket.SHUT_RDWR)
    with pytest.raises(channel.HungUp, match="hung up"):
        fake.channel.hello(5)


def test_hang_up_while_a_command_runs(fake: Fake, output: tuple[Stdio, int]) -> None:
    def speech(link: socket.socket, ear: Ear) -> None:
        ear.next(frames.EXEC)
        link.shutdown(socket.SHUT_RDWR)

    fake.says(speech)
    with pytest.raises(channel.HungUp):
        fake.channel.run(ExecRequest(("sleep", "9")), output[0])


def test_silence_ends_at_the_deadline(fake: Fake) -> None:
    began = time.monotonic()
    with pytest.raises(DeadlinePassed, match="greet the guest helper"):
        fake.channel.hello(0.2)
    assert 0.15 < time.monotonic() - began < 2


def test_another_version_is_told(fake: Fake) -> None:
    def speech(link: socket.socket, ear: Ear) -> None:
        link.sendall(welcome(ear.next(frames.HELLO).payload, version=9))

    fake.says(speech)
    with pytest.raises(BadData, match="speaks version 9"):
        fake.channel.hello(5)


def test_output_before_started_and_the_status(fake: Fake, output: tuple[Stdio, int]) -> None:
    stdio, read_end = output

    def speech(link: socket.socket, ear: Ear) -> None:
        id_ = ear.next(frames.EXEC).id
        other = frames.encode(frames.STDOUT, id_ + 5, b"of another command")
        link.sendall(
            other + frames.encode(frames.STDOUT, id_, b"one ") + frames.encode(frames.STDERR, id_, b"two")
        )
        link.sendall(frames.encode(frames.STARTED, id_, struct.pack("<IQ", 7, 1234)) + exits(id_, 42))

    fake.says(speech)
    started: list[int] = []
    streams: list[tuple[int, bytes]] = []
    status = fake.channel.run(
        ExecRequest(("x",)), stdio, on_started=started.append, on_output=lambda *told: streams.append(told)
    )
    assert (status, started, streams) == (42, [1234], [(1, b"one "), (2, b"two")])
    assert os.read(read_end, 100) == b"one two"


def test_a_command_that_is_not_there(fake: Fake, output: tuple[Stdio, int]) -> None:
    stdio, read_end = output
    fake.says(lambda link, ear: link.sendall(exits(ear.next(frames.EXEC).id, 127, 2, b"execute")))
    assert fake.channel.run(ExecRequest(("nosuch",)), stdio) == 127
    assert os.read(read_end, 200) == b"vmm: cannot execute nosuch: No such file or directory\n"


def test_a_user_that_is_not_there_raises(fake: Fake, output: tuple[Stdio, int]) -> None:
    words = b"find in /etc/passwd and /etc/group the user of"
    fake.says(lambda link, ear: link.sendall(exits(ear.next(frames.EXEC).id, 125, 2, words)))
    with pytest.raises(Failure, match="the user of 'id'") as told:
        fake.channel.run(ExecRequest(("id",), user="nobody9"), output[0])
    assert told.value.exit_status == 125


def test_requests_are_answered_in_any_order_and_errors_name_their_request(fake: Fake) -> None:
    def speech(link: socket.socket, ear: Ear) -> None:
        for frame in reversed([ear.next() for _ in range(3)]):
            error = 1 if frame.type == frames.TIME else 0
            link.sendall(frames.encode(frames.DONE, frame.id, struct.pack("<II", 0, error) + b"words"))

    fake.says(speech)
    fake.channel.reseed()
    fake.channel.set_time()
    fake.channel.identity(hostname="one")
    with pytest.raises(Failure, match="cannot set the clock in the machine: Operation not permitted"):
        fake.channel.settle(5)


def test_input_stays_within_the_credit(fake: Fake, output: tuple[Stdio, int], tmp_path: Path) -> None:
    text = os.urandom(200_000)
    (tmp_path / "in").write_bytes(text)
    got, beyond = bytearray(), []

    def speech(link: socket.socket, ear: Ear) -> None:
        id_ = ear.next(frames.EXEC).id
        allowed = frames.WINDOW_BYTES
        while frame := ear.next(frames.STDIN):
            if not frame.payload:
                return link.sendall(exits(id_, 0))
            got.extend(frame.payload)
            beyond.append(len(got) > allowed)
            if len(got) == allowed:
                time.sleep(0.02)
                allowed += 10_000
                link.sendall(frames.encode(frames.CREDIT, id_, struct.pack("<I", 10_000)))

    fake.says(speech)
    with open(tmp_path / "in", "rb") as stdin:
        stdio = Stdio(stdin.fileno(), output[0].stdout, output[0].stderr, interactive=True)
        assert fake.channel.run(ExecRequest(("cat",), interactive=True), stdio) == 0
    assert bytes(got) == text
    assert not any(beyond)


def test_signals_are_passed_on_and_handlers_restored(fake: Fake, output: tuple[Stdio, int]) -> None:
    def speech(link: socket.socket, ear: Ear) -> None:
        id_ = ear.next(frames.EXEC).id
        link.sendall(frames.encode(frames.STARTED, id_, struct.pack("<IQ", 7, 1)))
        heard = ear.next(frames.SIGNAL)
        link.sendall(exits(heard.id, 128 + struct.unpack("<I", heard.payload)[0]))

    fake.says(speech)
    before = signal.getsignal(signal.SIGTERM)
    status = fake.channel.run(
        ExecRequest(("sleep", "9")), output[0], on_started=lambda _: os.kill(os.getpid(), signal.SIGTERM)
    )
    assert status == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_reader_that_left_sends_sigpipe(fake: Fake) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)

    def speech(link: socket.socket, ear: Ear) -> None:
        id_ = ear.next(frames.EXEC).id
        link.sendall(frames.encode(frames.STDOUT, id_, b"y\n" * 100))
        link.sendall(exits(id_, 128 + struct.unpack("<I", ear.next(frames.SIGNAL).payload)[0]))

    fake.says(speech)
    assert fake.channel.run(ExecRequest(("yes",)), Stdio(0, write_end, 2)) == 141
    os.close(write_end)


def test_connect_waits_for_the_listener(tmp_path: Path) -> None:
    path = tmp_path / "s"
    server = socket.socket(socket.AF_UNIX)

    def listen() -> None:
        time.sleep(0.1)
        server.bind(str(path))
        server.listen()

    thread = threading.Thread(target=listen)
    thread.start()
    channel.connect(path, 5).close()
    thread.join()
    server.close()


def test_connect_gives_up(tmp_path: Path) -> None:
    with pytest.raises(DeadlinePassed, match="No such file"):
        channel.connect(tmp_path / "nothing", 0.1)
