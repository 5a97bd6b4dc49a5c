"""What the command may do: no new privileges, capabilities, ids, seccomp."""

from __future__ import annotations

import functools

from containers.capabilities import NAMES
from host.typing import NamedTuple


class Privileges(NamedTuple):
    """What is left to the command; `program` is compiled BPF or empty."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    set_groups: bool
    capabilities: int
    no_new_privileges: bool
    program: bytes


@functools.cache
def permitted() -> int:
    """The mask of the capabilities that this process has."""
    with open("/proc/self/status", "rb") as file:
        line = next(line for line in file if line.startswith(b"CapPrm"))
    return int(line.split()[1], 16)


@functools.cache
def last_capability() -> int:
    """The highest capability number that this kernel knows."""
    try:
        with open("/proc/sys/kernel/cap_last_cap", "rb") as file:
            return int(file.read())
    except OSError:
        return len(NAMES) - 1
