"""Namespaces shared with a neighbour: found anew at each start, by the neighbour's name.

A namespace's file goes by the pid of who is in it, and the kernel gives pids again: a path kept in a record
may lead into a stranger's namespace.
"""

from __future__ import annotations

from pathlib import Path

from containers import runtime
from containers.spec import SHARED, ContainerSpec
from host.errors import WrongState
from host.typing import Any

_FIELDS = (
    ("network", "net"),
    ("pid_namespace", "pid"),
    ("ipc_namespace", "ipc"),
    ("uts_namespace", "uts"),
)


def resolved(spec: ContainerSpec, base: Path) -> ContainerSpec:
    """The spec with `container:NAME` as the file of that namespace; `base` holds the run directories.

    Raises WrongState where the neighbour does not run.
    """
    found: dict[str, Any] = {}
    for field, kind in _FIELDS:
        value = getattr(spec, field)
        if value.startswith(SHARED):
            found[field] = f"/proc/{_pid(value.removeprefix(SHARED), kind, base)}/ns/{kind}"
    return spec._replace(**found) if found else spec


def _pid(name: str, kind: str, base: Path) -> int:
    init = runtime.living(base / name)
    if init is None:
        what = f"cannot share the {kind} namespace of"
        raise WrongState(what, name, "it is not running", f"vmm start {name}")
    return init.pid
