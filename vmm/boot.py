"""A machine that is coming up, whichever driver started it: its first signs, stamped, and the helper's
greeting."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from host.edges import Edges
from host.errors import DeadlinePassed, Failure
from vmm import diagnosis, ports, process
from vmm.channel import Channel, HungUp
from vmm.launch import CHANNELS
from vmm.monitor import Monitor

_CLAIM_S = 5.0


class Boot:
    """The sockets that speak first: QMP (t3), serial (t4), the helper's channel (t5, t6), and QEMU's end."""

    def __init__(
        self,
        folder: Path,
        edges: Edges,
        pid: int,
        guest: socket.socket | None,
        serial: socket.socket | None = None,
        monitor: Monitor | None = None,
        reap: Callable[[int], int | None] = lambda _: None,
    ) -> None:
        self.folder, self.edges, self.pid = folder, edges, pid
        self.channel = Channel(guest) if guest else None
        self.monitor = monitor
        self.cloned = False  # of a template: its kernel and init began long ago, so t5 and t6 are not its own
        self._serial, self._reap = serial, reap
        self._owned = contextlib.ExitStack()
        self._pidfd = os.pidfd_open(pid)
        self.place = -1  # among the machines that boot at once
        self.exposed = ""  # to the kernel's OOM killer, until the guest is up: what `shelter` wants
        self.once_up: Callable[[], None] | None = None  # what need not wait for the command's end

    def own(self, run: Path) -> None:
        """Keep other commands off the first channel until `close`."""
        self._owned.enter_context(ports.claim(run, CHANNELS[0], _CLAIM_S))

    def at_close(self, do: Callable[[], object]) -> None:
        """Have something done when we hang up."""
        self._owned.callback(do)

    def leave_monitor(self) -> None:
        """Let other commands speak to the control monitor."""
        if self.monitor is not None:
            self.monitor.close()
        self.monitor = None

    def close(self) -> None:
        """Hang up everywhere; the machine goes on."""
        self._leave_place()
        for one in (self.channel, self.monitor, self._serial):
            if one is not None:
                one.close()
        self._owned.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
        self.channel = self.monitor = self._serial = None
        self._pidfd = -1

    def end(self, timeout_s: float) -> None:
        """Kill QEMU, hang up everywhere while it dies, and see it gone; DeadlinePassed after that time.

        Where we have hung up before (a console was joined), its driver ends it.
        """
        if self._pidfd < 0:
            return
        pidfd, self._pidfd = self._pidfd, -1
        try:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            self.close()
            if not select.select([pidfd], [], [], timeout_s)[0]:
                why = f"still there after {timeout_s:g} s"
                raise DeadlinePassed("waited for the end of", f"QEMU (pid {self.pid})", why)
        finally:
            os.close(pidfd)
        self._reap(self.pid)

    def await_monitor(self, timeout_s: float) -> None:
        """Wait until QEMU greets over QMP: t3. Raises Failure with QEMU's own words when it ends instead."""
        assert self.monitor is not None
        self._await(lambda: "t3" in self.edges.stamps_ns, timeout_s, "QEMU's greeting")

    def await_helper(self, timeout_s: float) -> Channel:
        """Wait until the guest helper greets, and return its channel; stamps t4, t5 and t6.

        Raises Failure with the console's end, classified, when the guest does not come up in time.
        """
        assert self.channel is not None
        channel = self.channel
        if not channel.greets:
            channel.greet()
        self._await(lambda: channel.greeting is not None, timeout_s, "the guest helper")
        self._leave_place()
        hello = channel.greeting
        assert hello is not None
        self.edges.mark("t4", hello.received_ns)
        if self.cloned:
            return channel
        self.edges.mark("t5", hello.kernel_entry_ns)
        self.edges.mark("t6", hello.host_ns(hello.began_boottime_ns))
        return channel

    def _leave_place(self) -> None:
        if self.place >= 0:
            os.close(self.place)
        self.place = -1
        if self.exposed:
            process.shelter(self.pid, self.exposed)
        self.exposed = ""
        if self.once_up is not None:
            self.once_up()
        self.once_up = None

    def _await(self, done: Callable[[], bool], timeout_s: float, what: str) -> None:
        deadline = time.monotonic() + timeout_s
        while not done():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise diagnosis.late(self.folder.name, self.folder, what, timeout_s)
            ready = self._ready(left_s)
            for fd in ready:
                self._take(fd, deadline)
            if self._pidfd in ready and not done():
                raise self._ended()

    def _ready(self, timeout_s: float) -> list[int]:
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        if self.monitor is not None and "t3" not in self.edges.stamps_ns:
            poll.register(self.monitor, select.POLLIN)
        if self._serial is not None:
            poll.register(self._serial, select.POLLIN)
        if self.channel is not None:
            poll.register(self.channel.socket, self.channel.interest)
        return [fd for fd, _ in poll.poll(timeout_s * 1000)]

    def _take(self, fd: int, deadline: float) -> None:
        if self.monitor is not None and fd == self.monitor.fileno() and "t3" not in self.edges.stamps_ns:
            self._take_greeting(self.monitor, deadline)
        elif self._serial is not None and fd == self._serial.fileno():
            self.edges.mark("t4")
            # Its log has the rest; a client that does not read would hold the guest's console up.
            self._serial.close()
            self._serial = None
        elif self.channel is not None and fd == self.channel.socket.fileno():
            self._take_frames(self.channel)

    def _take_greeting(self, monitor: Monitor, deadline: float) -> None:
        try:
            monitor.greet(max(0.0, deadline - time.monotonic()))
        except Failure:
            self._raise_if_ended()
            raise
        self.edges.mark("t3")

    def _take_frames(self, channel: Channel) -> None:
        try:
            channel.keep(channel.move())
        except HungUp:
            self._raise_if_ended()
            raise

    def _raise_if_ended(self) -> None:
        # A socket that closed is QEMU ending: its exit status says more than the hang-up.
        if select.select([self._pidfd], [], [], 2.0)[0]:
            raise self._ended()

    def _ended(self) -> Failure:
        return diagnosis.ended(self.folder.name, self.folder, self._reap(self.pid))
