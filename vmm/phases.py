"""Where the time of a machine's start went, kept until it stops, and the flag that would cut each phase."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import NamedTuple

from host.edges import Edges
from vmm.spec import MachineSpec

_FILE = "edges"
READY = "ssh-ready"


class Phase(NamedTuple):
    """One stretch of a start: from an edge to another, and what the host or guest does in it."""

    begins: str
    ends: str
    what: str


PHASES = (
    Phase("t0", "t2", "disk, kernel, initramfs, sockets"),
    Phase("t2", "t3", "QEMU until it greets over QMP"),
    Phase("t3", "t5", "firmware, and loading and unpacking the kernel"),
    Phase("t5", "t6", "the guest's kernel until its init"),
    Phase("t6", READY, "the guest's services until sshd answers"),
)


def keep(run: Path, edges: Edges) -> None:
    """Keep the stamps of a start beside the machine's sockets."""
    _write(run, edges.stamps_ns)


def seen(run: Path, word: str) -> None:
    """Stamp one more moment of the machine's life, at its first time only."""
    stamps = _read(run)
    if stamps and word not in stamps:
        _write(run, {**stamps, word: time.monotonic_ns()})


def _write(run: Path, stamps: dict[str, int]) -> None:
    # libvirt's QEMU owns its run directory, and may lay a link there
    with contextlib.suppress(OSError):
        fd = os.open(run / _FILE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        os.write(fd, json.dumps(stamps).encode())
        os.close(fd)


def _read(run: Path) -> dict[str, int]:
    try:
        return dict(json.loads((run / _FILE).read_text()))
    except (OSError, ValueError):
        return {}


def told(run: Path, spec: MachineSpec) -> list[str]:
    """The phases of the running machine's start with their ms, and for each what would cut it."""
    stamps = _read(run)
    lines = []
    for phase in PHASES:
        if phase.begins in stamps and phase.ends in stamps:
            took_ms = (stamps[phase.ends] - stamps[phase.begins]) / 1e6
            lines.append(f"{took_ms:8.0f} ms  {phase.what}")
            lines += [f"             {one}" for one in cuts(phase, spec)]
    return lines


def cuts(phase: Phase, spec: MachineSpec) -> list[str]:
    """The flags that would make a phase of this machine shorter; none where it is the last rung."""
    if phase.ends == "t5":
        return {
            "bios": ["--boot direct: no BIOS, no boot loader"],
            "uefi": ["--boot direct: no UEFI, no boot loader"],
            "direct": ["--boot pvh: the kernel comes unpacked, the firmware takes milliseconds"],
            "pvh": ["--boot microvm: no PCI bus for the firmware to scan (and no hotplug)"],
        }.get(spec.boot, [])
    if phase.ends == "t6":
        rung = ["--boot microvm: no PCI scan (and no hotplug)"] if spec.boot in ("direct", "pvh") else []
        return [*rung, "without --boot, or --from TEMPLATE: a clone of a machine that has booted"]
    if phase.ends == READY:
        return [
            "vmm template create, then --from: its sshd runs already",
            "systemd-analyze blame inside names the slow services",
        ]
    return []


def faster(spec: MachineSpec) -> list[str]:
    """What would cut the phases of a machine that does not run; of a clone there is nothing left to cut."""
    if spec.template:
        return ["nothing: it starts as a clone, the last rung of the ladder"]
    phases = [phase for phase in PHASES if phase.ends != READY or spec.init is not None]
    return [f"{phase.what}: {one}" for phase in phases for one in cuts(phase, spec)]
