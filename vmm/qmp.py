"""QMP for everything that waits: qemu.qmp behind a synchronous, typed face, with a deadline on each call.

The hot path (run, exec, ls) uses `vmm.monitor` instead: qemu.qmp stands on asyncio. Here are events, jobs and
other conversations that last.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from qemu.qmp import ConnectError, EventListener, ExecInterruptedError, ExecuteError, QMPClient
from qemu.qmp.protocol import Runstate

from host.errors import CommandFailed, DeadlinePassed, Failure, WrongState

Result = TypeVar("Result")


class Refused(Failure):
    """QEMU answered with an error; `kind` is its class (GenericError, DeviceNotFound ...)."""

    def __init__(self, what: str, on: str, why: str, kind: str) -> None:
        super().__init__(what, on, why)
        self.kind = kind


class Session:
    """A conversation with one QEMU: `execute`, `wait_event`, `run_job`; events are kept from the start.

    Raises WrongState when QEMU hangs up, DeadlinePassed when it does not answer in time.
    """

    def __init__(self, where: Path | socket.socket, name: str, timeout_s: float = 10.0) -> None:
        self.name = name
        self._loop = asyncio.new_event_loop()
        self._client = QMPClient(name)
        self._events = EventListener()
        self._client.register_listener(self._events)
        self._socket = where if isinstance(where, socket.socket) else None
        target = where if isinstance(where, socket.socket) else str(where)
        try:
            self._within(self._client.connect(target), timeout_s, "the greeting")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up, whatever state the conversation is in."""
        try:
            self._loop.run_until_complete(self._leave())
        except (Exception, asyncio.CancelledError):  # the other side is gone: what we wanted
            pass
        finally:
            self._loop.close()
            if self._socket is not None:
                self._socket.close()

    async def _leave(self) -> None:
        try:
            if self._client.runstate != Runstate.IDLE:
                await asyncio.wait_for(self._client.disconnect(), 2.0)
        finally:
            await asyncio.sleep(0)  # transports close their sockets one turn of the loop later
            await asyncio.sleep(0)

    def execute(self, command: str, arguments: dict[str, Any] | None = None, timeout_s: float = 10.0) -> Any:
        """One command and its reply; Refused carries QEMU's own words."""
        return self._within(self._client.execute(command, arguments), timeout_s, f"the reply to {command}")

    def wait_event(self, names: Iterable[str], timeout_s: float) -> dict[str, Any]:
        """The next event of these names, also one that came before this call."""
        wanted = frozenset(names)
        return self._within(self._next(wanted), timeout_s, f"the event {' or '.join(sorted(wanted))}")

    async def _next(self, wanted: frozenset[str]) -> dict[str, Any]:
        async for event in self._events:
            if str(event["event"]) in wanted:
                return dict(event)
        raise WrongState("QEMU hung up on", self.name, "while we waited for an event")

    def run_job(self, command: str, arguments: dict[str, Any], timeout_s: float, job: str) -> None:
        """Start a job and wait for its end; raises Failure with the job's own error."""
        self.execute(command, {"job-id": job, **arguments})
        while True:
            found = {one["id"]: one for one in self.execute("query-jobs")}
            if job not in found:
                return
            if found[job]["status"] == "concluded":
                error = found[job].get("error")
                self.execute("job-dismiss", {"id": job})
                if error:
                    raise CommandFailed(f"{command} of {self.name} failed", [command], 1, str(error))
                return
            self.wait_event(["JOB_STATUS_CHANGE"], timeout_s)

    def _within(self, work: Coroutine[Any, Any, Result], timeout_s: float, what: str) -> Result:
        try:
            return self._loop.run_until_complete(asyncio.wait_for(work, timeout_s))
        except TimeoutError:
            why = f"no sign of {what} after {timeout_s:g} s"
            raise DeadlinePassed("QEMU did not answer for", self.name, why) from None
        except ExecuteError as error:
            raise Refused("QEMU refused for", self.name, str(error), error.error_class) from None
        except (ConnectError, ExecInterruptedError, EOFError, ConnectionError) as error:
            raise WrongState("QEMU hung up on", self.name, f"before {what} ({error})") from None
