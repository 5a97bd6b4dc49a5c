"""The child: from clone(2) to execve(2) in straight system calls on bytes that were made before.

Nothing here imports, encodes, looks up a name or returns. An error goes through a pipe to the parent as
(phase, step, errno, path), and the parent words it.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import select
import struct
from typing import TYPE_CHECKING, NamedTuple

from containers import executing, privileges, rootfs, terminal
from containers.mounts import HELPER
from host.linux import syscalls as sc

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

SETUP, CGROUP, PRIVILEGES, CWD, EXEC, TERMINAL, JOIN = range(7)  # guest/vmm-guest.c knows EXEC
REPORT = struct.Struct("iii")
GO = b"g"
# Where the command (or the helper) finds its descriptors; the helper's own options name them.
REPORT_FD, STATUS_FD, TERMINAL_FD = 3, 4, 5


class Child(NamedTuple):
    """All that the child needs, encoded; the descriptors are its own copies."""

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
    joins: tuple[tuple[int, int], ...] = ()
    doors: tuple[int, ...] = ()  # of our cgroups: see host.linux.cgroup.Cgroup.doors
    porches: tuple[int, ...] = ()  # where the doors will be
    door: bytes = b""
    wait_for_maps: bool = False
    death_signal: int = 0
    ignored: tuple[int, ...] = ()
    body: Callable[[], None] | None = None
    leave: bool = False  # the command is left to the pid 1 of the namespace that we joined
    helper: int = -1  # a descriptor, or HELPER for the one that the steps opened
    parents: tuple[int, ...] = ()  # the parent's ends of gate and report, which clone(2) gave us too
    status: int = -1
    terminal: terminal.Wish | None = None
    master_to: socket.socket | None = None


def main(child: Child) -> None:
    """Become the container's command; never returns."""
    gc.disable()  # a collection would write to every page that we share with the parent
    progress = [SETUP, 0]
    report = [child.report]
    try:
        for fd in child.parents:  # held open here, they would keep the parent's death from ending the gate
            os.close(fd)
        _become_leader(child)
        _perform(child.steps, SETUP, progress)
        _wait(child.gate)
        _hide()
        progress[:] = JOIN, 0
        for fd in child.doors:
            os.write(fd, b"0")
        for porch in child.porches:
            rootfs.enter_cgroup(porch, child.door)
        _perform(child.late_steps, CGROUP, progress)
        progress[:] = TERMINAL, 0
        stdio = _terminal(child)
        progress[:] = CWD, 0
        rootfs.working_directory(child.cwd)
        progress[:] = EXEC, 0
        candidates = executing.runnable(child.candidates, rootfs.inside)
        helper = _arrange(child, stdio)
        report[0] = REPORT_FD
        os.umask(child.umask)
        progress[:] = PRIVILEGES, 0
        if child.leave and sc.clone3(0, _SIGCHLD):
            os._exit(0)  # pid 1 inside adopts and reaps it: nobody out here has to stay for that
        privileges.apply(child.privileges, child.last_capability)
        if child.death_signal:  # after setresuid, which clears it (prctl(2))
            sc.prctl(sc.PR_SET_PDEATHSIG, child.death_signal)
            _leave_with_parent(report[0])
        progress[:] = EXEC, 0
        sc.default_signals(child.ignored)
        if child.body:
            os.close(REPORT_FD)  # what follows has begun
            child.body()
            os._exit(0)
        _execute(child, candidates, helper)
    except OSError as error:
        path = error.filename if isinstance(error.filename, bytes) else b""
        os.write(report[0], REPORT.pack(*progress, error.errno or errno.EIO) + path)
    finally:
        os._exit(125)


def _become_leader(child: Child) -> None:
    if child.wait_for_maps:
        _wait(child.gate)  # dumpable still: /proc/PID/uid_map must belong to the user who writes it
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    else:
        _hide()
    os.setsid()  # no terminal of the host is ours to push bytes into (TIOCSTI)
    os.umask(0)
    for fd, kind in child.joins:
        sc.setns(fd, kind)


def _hide() -> None:
    """Nobody inside may trace us or reach the interpreter behind /proc/PID/exe.

    Without root this waits for the second gate: slirp4netns opens our /proc/PID/ns as the same user.
    """
    sc.prctl(sc.PR_SET_DUMPABLE, 0)


def _perform(steps: list[rootfs.Step], phase: int, progress: list[int]) -> None:
    progress[:] = phase, 0
    for call, arguments in steps:
        call(*arguments)
        progress[1] += 1


def _wait(gate: int) -> None:
    if os.read(gate, 1) != GO:
        os._exit(125)  # the parent is gone or gave up: nobody is left to tell


def _leave_with_parent(report: int) -> None:
    """End if the parent died before PR_SET_PDEATHSIG: then nobody reads the report (poll(2), POLLERR)."""
    watched = select.poll()
    watched.register(report, 0)
    if watched.poll(0):
        os._exit(125)


def _terminal(child: Child) -> tuple[int, ...]:
    """The command's three descriptors and, for the helper, the master."""
    if child.terminal is None:
        return child.stdio
    master, slave = terminal.make(child.terminal)
    if child.master_to is None:
        os.close(slave)  # the helper asks the master for it again, as its child's controlling terminal
        return (*child.stdio, master)
    child.master_to.sendmsg([GO], [(_SOL_SOCKET, _SCM_RIGHTS, struct.pack("i", master))])
    terminal.make_controlling(slave)
    return slave, slave, slave


_SOL_SOCKET, _SCM_RIGHTS = 1, 1


def _arrange(child: Child, stdio: tuple[int, ...]) -> int:
    """Descriptors 0 to 2 for the command, 3 to 5 for the helper, everything else closed by execve.

    Returns where the helper itself is now, or -1.
    """
    helper = rootfs.helper() if child.helper == HELPER else child.helper
    wanted = [*stdio[:3], child.report, child.status, *stdio[3:], helper]
    # Out of the way first: dup2 overwrites what may still be wanted.
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE) if fd >= 0 else -1 for fd in wanted]
    helper = copies.pop()
    sc.close_range(REPORT_FD)
    for number, fd in enumerate(copies):
        if fd >= 0:
            os.dup2(fd, number, inheritable=number < REPORT_FD or helper >= 0)
    return helper


_ABOVE = 16
_SIGCHLD = 17


def _execute(child: Child, candidates: Sequence[bytes], helper: int) -> None:
    if helper >= 0:
        sc.execveat(helper, child.argv, child.env)
    executing.run_first(candidates, child.argv, child.env)
