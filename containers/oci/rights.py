"""The five capability sets, ids and filter of a process, put on in the child just before exec."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

from containers.capabilities import mask
from containers.oci.bundle import Config
from host.errors import Usage
from host.linux import syscalls as sc

_AMBIENT_RAISE = 2
_SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")


class Rights(NamedTuple):
    """Numeric ids, capability masks in the order of `_SETS`, and the compiled filter."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    umask: int
    capabilities: tuple[int, ...]
    no_new_privileges: bool
    program: bytes


def ours() -> int:
    """The capabilities that this process holds and so may hand on: not all, even for root, in a container."""
    with open("/proc/self/status", encoding="ascii") as file:
        pairs = [line.partition(":") for line in file if line.startswith("Cap")]
    held = {key: int(value, 16) for key, _, value in pairs}
    return held["CapPrm"] & held["CapBnd"]


def of_process(process: Config, program: bytes, held: int | None = None) -> tuple[Rights, list[str]]:
    """The rights of process.*, and the capabilities that cannot be granted: not the kernel's, or not in
    `held`.

    The runtime-spec wants a warning for these and no error (config.md, capabilities).
    """
    user = process.get("user") or {}
    missing: list[str] = []
    sets = process.get("capabilities") or {}
    masks = [_mask(sets.get(name) or (), missing, held) for name in _SETS]
    masks[-1] &= masks[2] & masks[3]  # ambient: only what is permitted and inheritable (capabilities(7))
    umask = user.get("umask")
    rights = Rights(
        int(user.get("uid", 0)),
        int(user.get("gid", 0)),
        tuple(user.get("additionalGids") or ()),
        0o022 if umask is None else int(umask),
        tuple(masks),
        bool(process.get("noNewPrivileges")),
        program,
    )
    return rights, sorted(set(missing))


def _mask(names: Iterable[str], missing: list[str], held: int | None) -> int:
    bits = 0
    for name in names:
        try:
            bit = mask([name])
        except Usage:
            bit = 0
        granted = bit if held is None else bit & held
        bits |= granted
        if not granted:
            missing.append(name)
    return bits


def put_on(wanted: Rights, last_capability: int) -> None:
    """Drop to the rights; the filter comes last where no_new_privs lets it. Runs in the child."""
    bounding, effective, permitted, inheritable, ambient = (
        one & ((1 << (last_capability + 1)) - 1) for one in wanted.capabilities
    )
    for number in range(last_capability + 1):
        if not bounding >> number & 1:
            sc.prctl(sc.PR_CAPBSET_DROP, number)
    if wanted.program and not wanted.no_new_privileges:
        sc.seccomp_filter(wanted.program)  # needs CAP_SYS_ADMIN, which is about to go (seccomp(2))
    sc.prctl(sc.PR_SET_KEEPCAPS, 1)
    os.setgroups(wanted.groups)
    os.setresgid(wanted.gid, wanted.gid, wanted.gid)
    os.setresuid(wanted.uid, wanted.uid, wanted.uid)
    sc.prctl(sc.PR_SET_KEEPCAPS, 0)
    sc.capset(effective, permitted, inheritable)
    sc.prctl(sc.PR_CAP_AMBIENT, sc.PR_CAP_AMBIENT_CLEAR_ALL)
    for number in range(last_capability + 1):
        if ambient >> number & 1:
            sc.prctl(sc.PR_CAP_AMBIENT, _AMBIENT_RAISE, number)
    if wanted.no_new_privileges:
        sc.prctl(sc.PR_SET_NO_NEW_PRIVS, 1)
