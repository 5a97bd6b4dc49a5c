"""How one start happens on this host: what a plan needs beside the spec, collected once and printable."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

# A virtio-serial port serves one client: the first channel is its owner's, as long as there is one.
CHANNELS = ("guest", "guest.1", "guest.2", "guest.3")
SOCKETS = ("ctl", "query", "serial")
# The migration capability by which the state carries the devices only: both sides map the same memory file.
LEAVE_MEMORY_OUT = {"capability": "x-ignore-shared", "state": True}


class Launch(NamedTuple):
    """Facts of the host and of this one start.

    `run` holds the sockets, `folder` what stays; `fds` maps a socket (or `net0`...) to the descriptor that
    QEMU inherits; empty, as in a printed plan, QEMU makes the sockets by path. `tsc_khz` 0 means unknown.
    `ports` are those of the machine whose state it takes over; empty: those of its birth (vmm.ports).
    `state` is the file with that state where QEMU shall read it by itself; empty: it is told later.
    """

    run: str
    folder: str
    accel: str = "tcg"
    tsc_khz: int = 0
    qemu: str = "qemu-system-x86_64"
    fds: tuple[tuple[str, int], ...] = ()
    incoming: bool = False
    paused: bool = False
    memory_file: str = ""
    memory_private: bool = False
    bridges: tuple[tuple[str, str, str], ...] = ()
    ports: tuple[str, ...] = ()
    state: str = ""

    def fd(self, name: str) -> int | None:
        """The descriptor handed over under `name`, or None."""
        return dict(self.fds).get(name)

    def on_empty_file(self, size_bytes: int) -> Launch:
        """The same with memory by the name that a clone's has in its state, over a file that stays empty."""
        memory = Path(self.folder, "memory")
        memory.touch(0o600)
        os.truncate(memory, size_bytes)
        return self._replace(memory_file=str(memory), memory_private=True)


def loading(where: str) -> tuple[tuple[str, dict[str, Any]], ...]:
    """The monitor's commands by which QEMU takes a template's state from there."""
    return (
        ("migrate-set-capabilities", {"capabilities": [LEAVE_MEMORY_OUT]}),
        ("migrate-incoming", {"uri": where}),
    )


def host_tsc_khz(cpuinfo: Path = Path("/proc/cpuinfo")) -> int:
    """The host's TSC rate in kHz from its BogoMIPS, or 0 where there is none.

    x86 derives loops_per_jiffy from the TSC, so BogoMIPS is twice the TSC's MHz at any clock scaling.
    """
    try:
        text = cpuinfo.read_text()
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith("bogomips"):
            return round(float(line.split(":")[1]) * 500)
    return 0


def here(run: Path, folder: Path, accel: str, arch: str = "x86_64") -> Launch:
    """The launch as a dry run prints it: this host's facts, sockets by path."""
    return Launch(
        run=str(run),
        folder=str(folder),
        accel=accel,
        tsc_khz=host_tsc_khz() if arch == os.uname().machine == "x86_64" else 0,
        qemu=f"qemu-system-{arch}",
    )
