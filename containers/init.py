"""The child: from clone(2) to execve(2) in straight system calls on bytes that were made before.

Nothing here imports, encodes, looks up a name or returns. An error goes through a pipe to the parent as
(phase, step, errno, path), and the parent words it.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import NamedTuple

from containers import privileges, rootfs
from host.linux import syscalls as sc

SETUP, CGROUP, PRIVILEGES, CWD, EXEC, TERMINAL = range(6)
REPORT = struct.Struct("iii")
GO = b"g"


class Child(NamedTuple):
    """All that the child needs, encoded; the descriptors are its own copies."""

    joins: tuple[int, ...]
    steps: list[rootfs.Step]
    late_steps: list[rootfs.Step]
    privileges: privileges.Privileges
    last_capability: int
    cwd: bytes
    umask: int
    candidates: tuple[bytes, ...]
    argv: sc.Words
    env: sc.Words
    stdio: tuple[int, int, int]
    gate: int
    report: int
    wait_for_maps: bool
    death_signal: int


def main(child: Child) -> None:
    """Become the container's command; never returns."""
    phase = step = 0
    try:
        if child.wait_for_maps:
            _wait(child.gate)
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
        os.setsid()  # no terminal of the host is ours to push bytes into (TIOCSTI)
        os.umask(0)
        for fd in child.joins:
            sc.setns(fd, 0)
        for step, (call, arguments) in enumerate(child.steps):
            call(*arguments)
        phase, step = CGROUP, 0
        _wait(child.gate)
        for step, (call, arguments) in enumerate(child.late_steps):
            call(*arguments)
        phase, step = CWD, 0
        rootfs.working_directory(child.cwd)
        phase = EXEC
        _stdio(child.stdio)
        os.umask(child.umask)
        sc.close_range(3)
        phase = PRIVILEGES
        privileges.apply(child.privileges, child.last_capability)
        if child.death_signal:  # after setresuid, which clears it (prctl(2))
            sc.prctl(sc.PR_SET_PDEATHSIG, child.death_signal)
        phase = EXEC
        sc.default_signals()
        _execute(child)
    except OSError as error:
        path = error.filename if isinstance(error.filename, bytes) else b""
        os.write(child.report, REPORT.pack(phase, step, error.errno or errno.EIO) + path)
    finally:
        os._exit(125)


def _wait(gate: int) -> None:
    if os.read(gate, 1) != GO:
        os._exit(125)  # the parent is gone or gave up: nobody is left to tell


def _stdio(stdio: tuple[int, int, int]) -> None:
    copies = [os.dup(fd) for fd in stdio]  # a later dup2 may overwrite a descriptor still wanted
    for number, fd in enumerate(copies):
        os.dup2(fd, number)


def _execute(child: Child) -> None:
    failure = OSError(errno.ENOENT, "", child.candidates[0])
    for path in child.candidates:
        try:
            sc.execve(path, child.argv, child.env)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                failure = error
    raise failure
