"""A function of ours inside a running container, with the rights of a command there: the probe's way in.

The only thing that enters a container as a fork of the interpreter: commands are started by guest/launch.c.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from containers import foreground, joining, privileges
from host.errors import Failure
from host.exec_request import ExecRequest
from host.linux import syscalls as sc

if TYPE_CHECKING:
    from containers.container import Container
    from containers.launch import Launch
    from containers.privileges import Privileges


def visit(container: Container, body: Callable[[], None], stdout: int) -> int:
    """Call `body` inside, its standard output `stdout`; the status.

    The body may import nothing and look up no codec.
    Raises WrongState where the container does not run or is paused.
    """
    init = joining.running(container)
    ready = joining.launch_in(container, init, ExecRequest(("visit",), cwd="/"))
    opened: list[int] = []
    try:
        for _, path in ready.plan.joins:
            opened.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        joining.still_same(init)
        joins = dict(zip((kind for kind, _ in ready.plan.joins), opened, strict=True))
        if len(os.listdir("/proc/self/task")) > 1:
            raise Failure(
                "cannot enter the container", why="this process has threads, fork(2) copies only one"
            )
        pid = os.fork()
        if pid == 0:
            _go_in(ready, joins, body, stdout)
        return foreground.exit_status(os.waitpid(pid, 0)[1])
    finally:
        for fd in opened:
            os.close(fd)


def _go_in(ready: Launch, joins: dict[str, int], body: Callable[[], None], stdout: int) -> NoReturn:
    """The child enters; its own child is in the pid namespace, too, and gives up its rights."""
    status = 125
    try:
        last_capability = privileges.last_capability()
        os.dup2(stdout, 1)
        os.setsid()
        ready.cgroup.add(os.getpid())
        sc.prctl(sc.PR_SET_DUMPABLE, 0)  # nobody inside may trace us (CVE-2016-9962)
        for kind, fd in joins.items():
            sc.setns(fd, 0)
            if kind == "user":
                os.setresgid(0, 0, 0)
                os.setresuid(0, 0, 0)
        pid = sc.clone3(0, _SIGCHLD)
        if pid:
            status = os.waitpid(pid, 0)[1] >> 8
        else:
            os.chdir(b"/")
            _give_up_rights(ready.wanted, last_capability)
            body()
            status = 0
    except OSError as error:
        os.write(1, b"errno %d\n" % (error.errno or 0))
    finally:
        os._exit(status)


_SIGCHLD = 17


def _give_up_rights(wanted: Privileges, last_capability: int) -> None:
    """As guest/launch.c does it, in the same order."""
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
