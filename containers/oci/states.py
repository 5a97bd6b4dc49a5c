"""What is remembered of a container, in <root>/<id>/: state.json, and the FIFOs through which `start` speaks.

The status is never remembered: it is read from the process, the FIFO and the freezer.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from containers.oci import groups
from containers.oci.bundle import Bundle, check_id
from host import paths, records
from host.errors import InUse, NotFound

VERSION = "1.2.0"


def default_root() -> Path:
    """Where state lives when --root does not say: /run/vmm-oci for root, else in $XDG_RUNTIME_DIR."""
    return Path("/run/vmm-oci") if os.geteuid() == 0 else Path(paths.runtime_base(), "vmm-oci")


class State(NamedTuple):
    """The record of one container; `started_ticks` tells its process from a later one of the same pid."""

    folder: Path
    id: str
    bundle: Bundle
    pid: int
    started_ticks: int
    cgroup: str
    created: str

    @property
    def fifo(self) -> Path:
        """The FIFO that `start` writes to; it is gone once the container was started."""
        return self.folder / "start"

    def group(self) -> groups.Group:
        """The container's cgroup."""
        return groups.Group(self.cgroup)

    def alive(self) -> bool:
        """Whether the process is there and no zombie."""
        return self.pid > 0 and ticks(self.pid) == self.started_ticks

    def status(self) -> str:
        """creating, created, running, paused or stopped."""
        if self.pid == 0:
            return "creating"
        if not self.alive():
            return "stopped"
        if self.fifo.exists():
            return "created"
        return "paused" if self.group().frozen() else "running"

    def document(self, status: str = "") -> dict[str, Any]:
        """The state as the runtime-spec has it (runtime.md), for hooks and `state`."""
        told = status or self.status()
        shown: dict[str, Any] = {
            "ociVersion": self.bundle.config.get("ociVersion", VERSION),
            "id": self.id,
            "status": told,
            "pid": 0 if told in ("stopped", "creating") else self.pid,
            "bundle": self.bundle.path,
        }
        annotations = self.bundle.config.get("annotations")
        return shown | ({"annotations": annotations} if annotations else {})

    def write(self) -> None:
        """Write the record."""
        held = {"id": self.id, "bundle": self.bundle.path, "config": self.bundle.config, "pid": self.pid}
        held |= {"started_ticks": self.started_ticks, "cgroup": self.cgroup, "created": self.created}
        records.write(self.folder / "state.json", held, durable=False)

    def remove(self) -> None:
        """Remove the record."""
        shutil.rmtree(self.folder, ignore_errors=True)


def ticks(pid: int) -> int:
    """When a process began (proc_pid_stat(5), field 22), or -1 where it is gone or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            words = file.read().rpartition(b")")[2].split()
    except OSError:
        return -1
    return -1 if words[0] in (b"Z", b"X") else int(words[19])


def claim(root: Path, identity: str) -> Path:
    """Make the folder of a new container; InUse where the id is taken."""
    folder = root / check_id(identity)
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        folder.mkdir(mode=0o711)
    except FileExistsError:
        raise InUse("cannot create", identity, "a container with that id exists") from None
    return folder


def load(root: Path, identity: str) -> State:
    """The state of a container; NotFound where there is none."""
    folder = root / check_id(identity)
    try:
        held = records.read(folder / "state.json")
    except FileNotFoundError:
        raise NotFound("container does not exist:", identity) from None
    bundle = Bundle(held["bundle"], held["config"])
    numbers = held["pid"], held["started_ticks"]
    return State(folder, held["id"], bundle, *numbers, held["cgroup"], held["created"])


def listing(root: Path) -> list[State]:
    """All containers of a root."""
    found = sorted(os.listdir(root)) if root.is_dir() else []
    return [load(root, name) for name in found if (root / name / "state.json").exists()]


def encoded(state: dict[str, Any]) -> bytes:
    """The state as a hook reads it."""
    return json.dumps(state).encode()
