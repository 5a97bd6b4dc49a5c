"""update: other limits for a container that is there."""

from __future__ import annotations

import json
import sys
from typing import Any

from containers.oci import limits
from containers.oci.bundle import Config
from containers.oci.states import State
from host.errors import BadData, Usage, WrongState

_FLAGS = {
    "--memory": ("memory", "limit"),
    "--memory-swap": ("memory", "swap"),
    "--memory-reservation": ("memory", "reservation"),
    "--cpu-shares": ("cpu", "shares"),
    "--cpu-period": ("cpu", "period"),
    "--cpu-quota": ("cpu", "quota"),
    "--cpuset-cpus": ("cpu", "cpus"),
    "--cpuset-mems": ("cpu", "mems"),
    "--pids-limit": ("pids", "limit"),
    "--blkio-weight": ("blockIO", "weight"),
}


def resources(flags: dict[str, list[str]]) -> Config:
    """The resources of --resources FILE (- is stdin), or of the single flags."""
    if flags.get("--resources"):
        path = flags["--resources"][-1]
        try:
            if path == "-":
                return dict(json.load(sys.stdin))
            with open(path, "rb") as file:
                return dict(json.load(file))
        except ValueError as error:
            raise BadData("cannot read the resources", path, str(error)) from None
    wanted: dict[str, dict[str, Any]] = {}
    for flag, (part, key) in _FLAGS.items():
        if flag in flags:
            word = flags[flag][-1]
            text = flag.startswith("--cpuset")
            if not text and not word.lstrip("-").isdigit():
                raise Usage(f"cannot read {flag}", repr(word), "not a number")
            wanted.setdefault(part, {})[key] = word if text else int(word)
    return wanted


def update(state: State, wanted: Config) -> None:
    """Write the values; a v1 group with memory and swap is widened in the order that the kernel takes."""
    if state.status() == "stopped":
        raise WrongState("cannot update", state.id, "it is stopped")
    group = state.group()
    values = limits.values(group.version, wanted)
    try:
        group.apply(values)
    except Exception:
        # memory.memsw must never be below memory.limit: growing both goes the other way round
        swapped = sorted(values, key=lambda one: "memsw" not in one.file)
        if group.version != 1 or swapped == values:
            raise
        group.apply(swapped)
