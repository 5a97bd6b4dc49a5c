"""What ends a QEMU when we end, whatever ends us, until we let it go.

PR_SET_PDEATHSIG ties a process to the one that started it, for good; a paused clone was started by another,
and a detached machine is to outlive us, but not before it is what was asked for. So QEMU has one end of a
socket pair that sends it SIGKILL at its hang-up (fcntl(2), F_SETSIG); ours is the other end, which the kernel
closes when we die. Nobody has to watch.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmm.monitor import Monitor

_F_SETSIG = 10  # fcntl.h; Python's fcntl has no name for it


class Leash:
    """Holds one QEMU until `let_go`: one that inherits `theirs` (confine.c, --leash), or was `tie`d."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()

    @property
    def theirs(self) -> int:
        """The descriptor for QEMU."""
        return self._theirs.fileno()

    def tie(self, monitor: Monitor, pid: int) -> None:
        """Hold a QEMU that runs, by its monitor and pid."""
        try:
            fcntl.fcntl(self._theirs, fcntl.F_SETOWN, pid)  # the kernel keeps the process, not its number
            fcntl.fcntl(self._theirs, _F_SETSIG, signal.SIGKILL)
            self._signals(True)
            # QEMU keeps what it was given under a name until another comes under the same
            monitor.execute("getfd", {"fdname": "leash"}, fd=self._theirs.fileno())
        except BaseException:
            self.let_go()
            raise

    def _signals(self, wanted: bool) -> None:
        flags = fcntl.fcntl(self._theirs, fcntl.F_GETFL) & ~os.O_ASYNC
        fcntl.fcntl(self._theirs, fcntl.F_SETFL, flags | (os.O_ASYNC if wanted else 0))

    def let_go(self) -> None:
        """Let the machine live on without us."""
        if self._theirs.fileno() >= 0:
            self._signals(False)  # a flag of the open socket, so of QEMU's end as well
        self._ours.close()
        self._theirs.close()
