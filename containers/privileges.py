"""What the command may do: no new privileges, capabilities, ids, seccomp. Runs in the child, last before
exec.
"""

from __future__ import annotations

import functools
import os

from containers.capabilities import NAMES
from host.linux import syscalls as sc
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


def apply(wanted: Privileges, last_capability: int) -> None:
    """Give up everything else. Order matters: each call needs a right that the next ones take away."""
    if not wanted.no_new_privileges and wanted.program:
        # seccomp(2): without no_new_privs a filter takes CAP_SYS_ADMIN, which is about to go
        sc.seccomp_filter(wanted.program)
    for number in range(last_capability + 1):
        if not wanted.capabilities >> number & 1:
            sc.prctl(sc.PR_CAPBSET_DROP, number)
    if wanted.set_groups:
        os.setgroups(wanted.groups)
    os.setresgid(wanted.gid, wanted.gid, wanted.gid)
    os.setresuid(
        wanted.uid, wanted.uid, wanted.uid
    )  # to a user other than 0 this clears permitted and effective
    if wanted.uid == 0:
        sc.capset(wanted.capabilities, wanted.capabilities, 0)  # inheritable stays empty: CVE-2022-29162
    sc.prctl(sc.PR_CAP_AMBIENT, sc.PR_CAP_AMBIENT_CLEAR_ALL)
    if wanted.no_new_privileges:
        sc.prctl(sc.PR_SET_NO_NEW_PRIVS, 1)
        if wanted.program:
            sc.seccomp_filter(wanted.program)


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
