"""The host's side of the channel to the guest helper: synchronous, over one unix socket."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from host.errors import BadData, DeadlinePassed, Failure, from_os_error
from host.exec_request import ExecRequest
from host.stdio import Stdio
from vmm import frames
from vmm.frames import Frame, Hello

_CHUNK_BYTES = 64 << 10
_GREET_AGAIN_S = 0.5


class HungUp(Failure):
    """The other end of the channel is gone: QEMU ended, or closed the port."""


def connect(where: Path | str | socket.socket, deadline_s: float = 10.0) -> Channel:
    """A channel over the unix socket at a path, tried until QEMU listens, or over a socket connected already.

    Raises DeadlinePassed after `deadline_s` seconds.
    """
    if isinstance(where, socket.socket):
        return Channel(where)
    deadline, pause_s = time.monotonic() + deadline_s, 0.001
    while True:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            link.connect(str(where))
            return Channel(link)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            link.close()
            if time.monotonic() > deadline:
                raise DeadlinePassed("cannot reach the machine", str(where), error.strerror or "") from None
        except OSError as error:
            link.close()
            raise from_os_error("cannot reach the machine", error, str(where)) from None
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.05)


class Channel:
    """One connection to the helper: requests by `post` and `settle`, commands by `run` and `start_main`."""

    def __init__(self, link: socket.socket) -> None:
        link.setblocking(False)
        self.socket = link
        self._decoder = frames.Decoder()
        self._outgoing = bytearray()
        self._promised: dict[int, str] = {}
        self._last_id = 0
        self.greeting: Hello | None = None
        self._nonce = 0
        self._kept: list[Frame] = []

    def __enter__(self) -> Channel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; the helper goes on."""
        self.socket.close()

    # ---- frames ----

    def send(self, type_: int, id_: int, payload: bytes = b"") -> None:
        """Queue a frame, and send what the socket takes; the rest leaves while we wait for anything."""
        self._outgoing += frames.encode(type_, id_, payload)
        self._flush()

    def _flush(self) -> None:
        while self._outgoing:
            try:
                del self._outgoing[: self.socket.send(self._outgoing)]
            except BlockingIOError:
                return
            except OSError as error:
                raise HungUp("the machine hung up", why=error.strerror or "") from None

    @property
    def interest(self) -> int:
        """The events of poll(2) that this channel waits for."""
        return select.POLLIN | (select.POLLOUT if self._outgoing else 0)

    def move(self) -> list[Frame]:
        """Send and receive what can be moved without waiting: the frames of commands that came.

        Answers to requests and greetings are taken note of here. Raises HungUp at the end of the stream, and
        the Failure that an answer tells.
        """
        self._flush()
        kept, self._kept = self._kept, []
        try:
            data = self.socket.recv(_CHUNK_BYTES)
        except BlockingIOError:
            return kept
        except OSError as error:
            raise HungUp("the machine hung up", why=error.strerror or "") from None
        if not data:
            raise HungUp("the machine hung up", why="the end of the stream")
        return kept + [frame for frame in self._decoder.feed(data) if not self._take_note(frame)]

    def keep(self, early: list[Frame]) -> None:
        """Put frames of commands back that came while we waited for something else: the next `move` has
        them.
        """
        self._kept += early

    @property
    def has_kept(self) -> bool:
        """Whether `move` would return something without anything new on the socket."""
        return bool(self._kept)

    def _take_note(self, frame: Frame) -> bool:
        if frame.type == frames.WELCOME:
            self._take_welcome(frame)
        elif frame.type == frames.DONE:
            self._take_done(frame)
        return frame.type in (frames.WELCOME, frames.DONE)

    def receive(self, deadline: float, what: str) -> list[Frame]:
        """Wait for anything until `deadline` (time.monotonic), and `move`; DeadlinePassed tells `what`."""
        if self._kept:
            return self.move()
        poll = select.poll()
        poll.register(self.socket, self.interest)
        left_s = deadline - time.monotonic()
        if left_s <= 0 or not poll.poll(left_s * 1000):
            raise DeadlinePassed(what, why="the machine had not answered in time")
        return self.move()

    def _wait(self, until: Callable[[], bool], timeout_s: float, what: str) -> None:
        deadline = time.monotonic() + timeout_s
        while not until():
            self.receive(deadline, what)

    # ---- greeting ----

    def greet(self) -> None:
        """Send HELLO without waiting: the helper answers when it opens its port."""
        self.greeting = None
        self._nonce = int.from_bytes(os.urandom(8), "little") | 1
        self._greet_again()

    @property
    def greets(self) -> bool:
        """Whether HELLO is on its way or answered."""
        return bool(self._nonce)

    def _greet_again(self) -> None:
        self.send(frames.HELLO, 0, struct.pack("<Q", self._nonce))

    def hello(self, timeout_s: float = 30.0) -> Hello:
        """Greet the helper and wait for its answer; commands of earlier clients of this port are let go.

        Raises DeadlinePassed, HungUp, and BadData for a helper of another version.
        """
        if not self._nonce:
            self.greet()
        deadline = time.monotonic() + timeout_s
        while self.greeting is None:
            pause_s = min(_GREET_AGAIN_S, max(0.0, deadline - time.monotonic()))
            try:
                self._wait(lambda: self.greeting is not None, pause_s, "cannot greet the guest helper")
            except DeadlinePassed:
                if time.monotonic() >= deadline:
                    raise
                # a frame that an earlier host left half said may have swallowed ours
                self._greet_again()
        return self.greeting

    def _take_welcome(self, frame: Frame) -> None:
        try:
            nonce, hello = frames.read_welcome(frame.payload, time.monotonic_ns())
        except struct.error:
            raise BadData("cannot greet the guest helper", why="its greeting has another form") from None
        if hello.version != frames.VERSION:
            why = f"it speaks version {hello.version}, we speak {frames.VERSION}"
            raise BadData(
                "cannot greet the guest helper", why=why, hint="start the machine again, then make setup"
            )
        if nonce == self._nonce:
            self.greeting = hello

    # ---- requests ----

    def new_id(self) -> int:
        """An id that no command or request of this connection has had."""
        self._last_id += 1
        return self._last_id

    def post(self, type_: int, payload: bytes, what: str) -> int:
        """Send a request without waiting; `what` is the sentence for the error that its answer may bring."""
        id_ = self.new_id()
        self._promised[id_] = what
        self.send(type_, id_, payload)
        return id_

    def settle(self, timeout_s: float = 10.0) -> None:
        """Wait until every posted request is answered; raises the Failure that an answer tells."""
        self._wait(lambda: not self._promised, timeout_s, next(iter(self._promised.values()), ""))

    def _take_done(self, frame: Frame) -> None:
        what = self._promised.pop(frame.id, "")
        _, error = struct.unpack_from("<ii", frame.payload)
        if what and error:
            raise Failure(what, "in the machine", os.strerror(error))

    def identity(self, hostname: str = "", network: str = "") -> None:
        """Post a new host name and address (`ADDRESS/PREFIX[,GATEWAY[,MAC]]`) for the first card."""
        if hostname:
            self.post(frames.HOSTNAME, hostname.encode(), "cannot set the host name")
        if network:
            self.post(frames.NETWORK, network.encode(), "cannot set the address")

    def reseed(self) -> None:
        """Post 32 bytes of the host's entropy: the guest's random generator starts anew from them."""
        self.post(frames.RESEED, os.urandom(32), "cannot reseed the random generator")

    def set_time(self) -> None:
        """Post the host's CLOCK_REALTIME."""
        self.post(frames.TIME, struct.pack("<Q", time.time_ns()), "cannot set the clock")

    def put(self, path: str, data: bytes, mode: int = 0o644, uid: int = 0, gid: int = 0) -> None:
        """Post a small file (below 256 KiB), replaced as a whole."""
        head = struct.pack("<III", mode, uid, gid) + path.encode() + b"\0"
        self.post(frames.PUT, head + data, f"cannot write {path}")

    def signal_pidfile(self, path: str, signal_number: int) -> None:
        """Post a signal to the daemon of that pid file."""
        payload = struct.pack("<I", signal_number) + path.encode()
        self.post(frames.PIDFILE, payload, f"cannot signal the daemon of {path}")

    def warm(self, path: str, program: str) -> None:
        """Post that the guest reads a program into its memory; `path` is the PATH to look in."""
        self.post(frames.WARM, path.encode() + b"\0" + program.encode(), f"cannot find {program}")

    def poise(self) -> None:
        """Post that the guest stays awake for its first command, for some seconds at most."""
        self.post(frames.POISE, b"", "cannot keep the guest awake")

    def sync(self, timeout_s: float = 60.0) -> None:
        """Write the guest's file systems to its disks."""
        self.post(frames.SYNC, b"", "cannot sync the disks")
        self.settle(timeout_s)

    def poweroff(self, restart: bool = False) -> None:
        """Post the end of the machine; it hangs up when it is gone."""
        with contextlib.suppress(HungUp):
            self.send(frames.POWEROFF, self.new_id(), struct.pack("<I", restart))

    def signal_main(self, signal_number: int) -> None:
        """Signal the command that the machine lives for."""
        self.send(frames.SIGNAL, 0, struct.pack("<I", signal_number))

    # ---- commands ----

    def begin(self, request: ExecRequest, flags: int = 0) -> int:
        """Send a command without waiting; its id."""
        id_ = self.new_id()
        if request.tty:
            flags |= frames.TTY
        if request.interactive:
            flags |= frames.WITH_STDIN
        payload = frames.exec_payload(
            request.argv, request.env, request.cwd, request.user, flags, request.rows, request.cols
        )
        if len(payload) > frames.MAX_PAYLOAD_BYTES:
            raise Failure(
                "cannot send the command", why=f"its words and environment are {len(payload)} bytes long"
            )
        self.send(frames.EXEC, id_, payload)
        return id_

    def start_main(self, request: ExecRequest, timeout_s: float = 30.0) -> int:
        """Start the command that the machine lives for, its output in the log port; its pid once it runs."""
        id_ = self.begin(request, frames.LOG | frames.END | frames.MAKE_CWD)
        deadline = time.monotonic() + timeout_s
        while True:
            for frame in self.receive(deadline, "cannot start the command"):
                if frame.id == id_ and frame.type == frames.STARTED:
                    return int(struct.unpack_from("<I", frame.payload)[0])
                if frame.id == id_ and frame.type == frames.EXIT:
                    raise failed_start(frame.payload, request)

    def run(
        self,
        request: ExecRequest,
        stdio: Stdio,
        *,
        flags: int = 0,
        begun: int = 0,
        on_started: Callable[[int], None] | None = None,
        on_output: Callable[[int, bytes], None] | None = None,
    ) -> int:
        """Run a command with our descriptors and signals; its status (126, 127 after a line on stderr).

        `begun` is the id of a command that `begin` has sent already. `on_started` gets the guest's
        CLOCK_BOOTTIME in ns, `on_output` the stream (1, 2) and bytes, before they are written. Raises HungUp
        when the machine ends before the command does.
        """
        from vmm.conversation import Conversation

        id_ = begun or self.begin(request, flags)
        with Conversation(self, id_, request, stdio, on_started, on_output) as conversation:
            return conversation.status()


def failed_start(payload: bytes, request: ExecRequest) -> Failure:
    """The Failure that an EXIT with an errno tells; `exit_status` is what docker would end with."""
    status, error = struct.unpack_from("<Ii", payload)
    step = payload[8:].decode(errors="replace")
    failure = Failure(
        f"cannot {step}", request.argv[0] if step == "execute" else repr(" ".join(request.argv))
    )
    failure.why = os.strerror(error)
    failure.exit_status = status
    return failure
