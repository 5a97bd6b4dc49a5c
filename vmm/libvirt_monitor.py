"""QMP of a libvirt domain in the words of vmm.monitor.Monitor: by libvirt's own monitor, descriptors too.

A template's state goes to QEMU and comes from it as a descriptor (`fd:`): libvirt's sandbox denies QEMU the
processes that an `exec:` migration would need, and no path of ours has to be known to it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import libvirt
import libvirt_qemu

from host.errors import Failure, WrongState
from vmm.monitor import Monitor, note, told


class DomainMonitor(Monitor):
    """What a start is steered by; libvirt marks a domain that was spoken to so as tainted."""

    def __init__(self, domain: libvirt.virDomain, name: str, journal: Path) -> None:
        self._domain, self.name, self._kept_in = domain, name, journal
        self.events = []

    def close(self) -> None:
        """Nothing: the connection is the driver's."""

    def fileno(self) -> int:
        """None that anyone could wait for: libvirt has greeted QEMU."""
        return -1

    def settle(self, timeout_s: float) -> bool:
        """Nothing is posted here: libvirt is the first to speak to QEMU."""
        return False

    def execute_all(
        self, orders: Iterable[tuple[str, dict[str, Any]]], fd: int | None = None, timeout_s: float = 5.0
    ) -> None:
        """The commands one after the other: libvirt passes on one at a time."""
        for command, arguments in orders:
            self.execute(command, arguments, timeout_s, fd if command == "getfd" else None)

    def await_running(self, timeout_s: float) -> None:
        """Wait until an incoming state is read; libvirt keeps QEMU's events for itself, so it is asked."""
        deadline = time.monotonic() + timeout_s
        while (said := self.execute("query-migrate").get("status")) != "completed":
            if said == "failed" or time.monotonic() > deadline:
                raise WrongState("cannot load the state into", self.name, f"it is {said}")
            time.sleep(0.0005)

    def execute(
        self,
        command: str,
        arguments: dict[str, Any] | None = None,
        timeout_s: float = 5.0,
        fd: int | None = None,
    ) -> Any:
        """One command, with a descriptor for getfd; Failure with QEMU's words, WrongState where it ended."""
        request = {"execute": command, **({"arguments": arguments} if arguments else {})}
        note(self._kept_in, told(request))
        try:
            if fd is None:
                words = libvirt_qemu.qemuMonitorCommand(self._domain, json.dumps(request), 0)
            else:
                words, _ = libvirt_qemu.qemuMonitorCommandWithFiles(
                    self._domain, json.dumps(request), [fd], 0
                )
        except libvirt.libvirtError as error:
            raise WrongState("cannot ask QEMU", self.name, error.get_error_message() or str(error)) from None
        reply = json.loads(words)
        if "error" in reply:
            raise Failure(f"QEMU refused {command} of", self.name, str(reply["error"].get("desc", "")))
        return reply["return"]
