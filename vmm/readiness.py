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
from vmm import diagnosis, phases, ssh

if TYPE_CHECKING:
    from vmm.machine import Machine

CONDITIONS = ("running", "ssh-ready", "cloud-init-done", "exited")
# What a look may take at a machine that nobody has seen ready yet: at one, and at all of a list together. An
# emulated Debian's sshd was seen to need 0.13 to 0.2 s to its first word.
_GLANCE_S = 0.05
_LIST_S = 0.3
_PAUSE_S = 0.02
_DISABLED = 3
# What the guest's cloud-init keeps: why it does not run, that it is done, and with which errors.
_ASK_CLOUD_INIT = (
    f"test ! -e /run/cloud-init/disabled || exit {_DISABLED}; "
    "test -e /var/lib/cloud/instance/boot-finished || exit 1; "
    "cat /run/cloud-init/result.json 2>/dev/null || :"
)


class Knock:
    """A connection to an sshd whose first words are still to come.

    QEMU's user network accepts at once and connects to the guest later: only bytes prove the guest's sshd.
    """

    def __init__(self, where: tuple[str, int], timeout_s: float) -> None:
        self._until = time.monotonic() + timeout_s
        self._line = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._line.setblocking(False)
        self._line.connect_ex(where)

    def said(self) -> bytes:
        """What it says first, then hang up; empty where it says nothing in time."""
        try:
            left_s = max(0.0, self._until - time.monotonic())
            return self._line.recv(64) if select.select([self._line], [], [], left_s)[0] else b""
        except OSError:
            return b""
        finally:
            self.close()

    def close(self) -> None:
        """Hang up."""
        self._line.close()


def banner(where: tuple[str, int], timeout_s: float) -> bytes:
    """The first bytes that sshd says at an address; empty where it says nothing in time."""
    return Knock(where, timeout_s).said()


def knock(run: Path) -> Knock | None:
    """Knock at the sshd of a machine that nobody has seen ready yet, for `glance` to hear; None: no need."""
    if _read(run / "ready") or (where := ssh.address(run)) is None:
        return None
    return Knock(where, _LIST_S)


def glance(run: Path, knocked: Knock | None = None) -> str:
    """`booting`, `ssh-ready` or `cloud-init-done`, from what was seen before and one short look."""
    seen = _read(run / "ready")
    if seen:
        return seen
    where = ssh.address(run)
    if where is None:
        return "running"
    if (knocked or Knock(where, _GLANCE_S)).said().startswith(b"SSH-"):
        remember(run, "ssh-ready")
        return "ssh-ready"
    return "booting"


def remember(run: Path, seen: str) -> None:
    """Keep what was seen until the machine stops: its run directory goes with it."""
    with contextlib.suppress(OSError):
        (run / "ready").write_text(seen)
    phases.seen(run, seen)


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
            seen = diagnosis.NO_ADDRESS if condition == "ssh-ready" and _has_no_address(machine) else None
            raise diagnosis.late(machine.folder.name, machine.folder, condition, limit_s, seen)
        time.sleep(_PAUSE_S)


def _has_no_address(machine: Machine) -> bool:
    """Whether the guest itself says so: it is asked by the ways that need no network."""
    from vmm import access, inside

    if not access.has_helper(machine):
        return False
    try:
        words = ("ip", "-4", "-o", "address", "show", "scope", "global")
        status, said = inside.run(machine, words, first_only=True)
    except Failure:
        return False
    return status == 0 and not said.strip()


def _reached(machine: Machine, condition: str, deadline: float, edges: Edges | None) -> bool:
    if condition == "running":
        return machine.state() in ("running", "booting", "ssh-ready", "cloud-init-done")
    if condition == "ssh-ready":
        return _ssh_answers(machine, deadline, edges)
    return _cloud_init_done(machine)


def _ssh_answers(machine: Machine, deadline: float, edges: Edges | None) -> bool:
    if _read(machine.run_dir / "ready") and edges is None:
        return True
    where = ssh.address(machine.run_dir)
    if where is None:
        name = machine.folder.name
        raise Failure(
            "cannot wait for ssh of", name, "no port of this host leads to it", "-p 2222:22 makes one"
        )
    # sshd may be slow to accept: each try waits long enough for a guest under TCG to answer.
    said = banner(where, min(5.0, max(0.05, deadline - time.monotonic())))
    if not said:
        return False
    if edges is not None:
        edges.mark("t8")
    remember(machine.run_dir, "ssh-ready")
    return True


def _cloud_init_done(machine: Machine) -> bool:
    from vmm import inside

    try:
        status, said = inside.run(machine, ("sh", "-c", _ASK_CLOUD_INIT), first_only=True)
    except Failure:
        return False  # not up yet, or busy: the deadline is what ends this
    name = machine.folder.name
    if status == _DISABLED:
        why, hint = "it found no seed and does not run", "--cloud-init FILE or --ssh-key FILE gives one"
        raise Failure("cannot wait for cloud-init in", name, why, hint)
    if status:
        return False
    if errors := _errors(said):
        hint = f"vmm exec {name} cloud-init status --long"
        raise Failure("cloud-init failed in", name, "; ".join(errors), hint)
    remember(machine.run_dir, "cloud-init-done")
    return True


def _errors(result: bytes) -> list[str]:
    """What cloud-init itself calls errors in its result.json; nothing where it kept none."""
    import json

    try:
        told = json.loads(result or b"{}").get("v1", {}).get("errors", [])
    except ValueError:
        return []
    return [str(one) for one in told]
