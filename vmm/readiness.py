"""How far a machine in system mode has come: booting, ssh-ready, cloud-init-done."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

from host.edges import Edges
from host.errors import Failure, Usage
from host.exec_request import ExecRequest
from host.stdio import Stdio
from vmm import diagnosis

if TYPE_CHECKING:
    from vmm.machine import Machine

CONDITIONS = ("running", "ssh-ready", "cloud-init-done", "exited")
# What `vmm ls` may spend on a machine that nobody has seen ready yet.
_GLANCE_S = 0.05
_PAUSE_S = 0.02
_FINISHED = "/var/lib/cloud/instance/boot-finished"


def banner(port: int, timeout_s: float) -> bytes:
    """The first bytes that sshd says on a port of this host; empty where it says nothing in time.

    QEMU's user network accepts at once and connects to the guest later: only bytes prove the guest's sshd.
    """
    deadline = time.monotonic() + timeout_s
    try:
        with socket.create_connection(("127.0.0.1", port), timeout_s) as line:
            left_s = max(0.0, deadline - time.monotonic())
            if not select.select([line], [], [], left_s)[0]:
                return b""
            return line.recv(64)
    except OSError:
        return b""


def glance(run: Path) -> str:
    """`booting`, `ssh-ready` or `cloud-init-done`, from what was seen before and one short look."""
    seen = _read(run / "ready")
    if seen:
        return seen
    port = _read(run / "ssh-port")
    if not port:
        return "running"
    if banner(int(port), _GLANCE_S).startswith(b"SSH-"):
        remember(run, "ssh-ready")
        return "ssh-ready"
    return "booting"


def remember(run: Path, seen: str) -> None:
    """Keep what was seen until the machine stops: its run directory goes with it."""
    with contextlib.suppress(OSError):
        (run / "ready").write_text(seen)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def wait_for(machine: Machine, condition: str, timeout_s: float | None, edges: Edges | None = None) -> None:
    """Wait until the machine is `condition`; DeadlinePassed shows the console's end, classified.

    Stamps t8 at the first byte of sshd's banner. Raises Failure at once when the machine ends meanwhile.
    """
    if condition not in CONDITIONS:
        raise Usage("cannot wait for", repr(condition), f"a machine can be {', '.join(CONDITIONS)}")
    limit_s = timeout_s if timeout_s is not None else 10 * 365 * 86400.0
    if condition == "exited":
        machine.wait(limit_s)
        return
    deadline = time.monotonic() + limit_s
    while not _reached(machine, condition, deadline, edges):
        if machine.pid() is None:
            raise diagnosis.ended(machine.folder.name, machine.folder, None)
        if time.monotonic() >= deadline:
            raise diagnosis.late(machine.folder.name, machine.folder, condition, limit_s)
        time.sleep(_PAUSE_S)


def _reached(machine: Machine, condition: str, deadline: float, edges: Edges | None) -> bool:
    if condition == "running":
        return machine.state() in ("running", "booting", "ssh-ready", "cloud-init-done")
    if condition == "ssh-ready":
        return _ssh_answers(machine, deadline, edges)
    return _cloud_init_done(machine)


def _ssh_answers(machine: Machine, deadline: float, edges: Edges | None) -> bool:
    if _read(machine.run_dir / "ready") and edges is None:
        return True
    port = _read(machine.run_dir / "ssh-port")
    if not port:
        name = machine.folder.name
        raise Failure(
            "cannot wait for ssh of", name, "no port of this host leads to it", "-p 2222:22 makes one"
        )
    # sshd may be slow to accept: each try waits long enough for a guest under TCG to answer.
    said = banner(int(port), min(5.0, max(0.05, deadline - time.monotonic())))
    if not said:
        return False
    if edges is not None:
        edges.mark("t8")
    remember(machine.run_dir, "ssh-ready")
    return True


def _cloud_init_done(machine: Machine) -> bool:
    try:
        with machine.channel(5.0) as channel, open("/dev/null", "r+b", buffering=0) as null:
            silent = Stdio(null.fileno(), null.fileno(), null.fileno())
            done = channel.run(ExecRequest(("/bin/sh", "-c", f"test -e {_FINISHED}")), silent) == 0
    except Failure:
        return False
    if done:
        remember(machine.run_dir, "cloud-init-done")
    return done
