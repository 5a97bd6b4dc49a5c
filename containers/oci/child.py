"""The container's first process, from clone(2) to execve(2).

Who runs here: at first we, in new namespaces and with the host's files in sight; after `pivot` only the
container's files are, and nothing may be imported, decoded or looked up. Two pipes speak with the parent: a
byte on `gate` lets us go on, `report` says which stage is reached, or what failed. `start` is a FIFO that
`vmm-oci start` writes to.
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import struct
from collections.abc import Callable
from typing import NamedTuple

from containers import executing
from containers.oci import effects, rights
from host.linux import syscalls as sc

GO = b"g"
HOOKS, READY, FAILED = b"H", b"R", b"F"
WHERE = (
    "namespaces",
    "mounts",
    "createContainer hook",
    "root",
    "sysctl",
    "terminal",
    "rights",
    "cwd",
    "exec",
)
(NAMESPACES, MOUNTS, HOOK, ROOT, SYSCTL, TERMINAL, RIGHTS, CWD, EXEC) = range(9)
REPORT = struct.Struct("=ii")
_TIOCGPTPEER, _TIOCSPTLCK, _TIOCSCTTY, _TIOCSWINSZ = 0x5441, 0x40045431, 0x540E, 0x5414


class Child(NamedTuple):
    """Everything encoded; descriptors are the child's own copies."""

    joins: tuple[tuple[int, int], ...]
    own_user: bool
    own_cgroup: bool
    memory_apart: bool
    own_mounts: bool
    rootfs: bytes
    propagation: int
    mounts: list[effects.Step]
    container_hooks: Callable[[], None] | None
    hostname: bytes
    domainname: bytes
    sysctls: tuple[tuple[bytes, bytes], ...]
    hidden: list[effects.Step]
    read_only_root: bool
    loopback: bool
    terminal: int
    window: bytes
    rights: rights.Rights
    last_capability: int
    personality: int
    cwd: bytes
    start_hooks: tuple[tuple[bytes, sc.Words, sc.Words], ...]
    state: bytes
    candidates: tuple[bytes, ...]
    argv: sc.Words
    env: sc.Words
    foreign: tuple[int, ...]
    gate: int
    report: int
    start: int
    start_report: int
    keep: int


def main(child: Child) -> None:
    """Become the container's process; never returns."""
    stage = [NAMESPACES]
    out = child.report
    try:
        # Nobody inside may trace us or reach the interpreter behind /proc/PID/exe (CVE-2016-9962).
        sc.prctl(sc.PR_SET_DUMPABLE, 0)
        for fd in child.foreign:
            os.close(fd)
        _namespaces(child)
        stage[0] = MOUNTS
        enter = effects.enter_root if child.own_mounts else effects.enter_shared_root
        enter(child.rootfs)
        for call, arguments in child.mounts:
            call(*arguments)
        os.write(child.report, HOOKS)
        _wait(child.gate)
        stage[0] = HOOK
        if child.container_hooks:
            child.container_hooks()
        _enter(child, stage)
        _wait(child.gate)  # in the memory cgroup now
        if child.own_cgroup and child.memory_apart:
            sc.unshare(sc.CLONE_NEWCGROUP)
        os.write(child.report, READY)
        out = child.start_report
        _wait(child.start)
        _execute(child, stage)
    except OSError as error:
        path = error.filename if isinstance(error.filename, bytes) else b""
        os.write(out, FAILED + REPORT.pack(stage[0], error.errno or errno.EIO) + path)
    finally:
        os._exit(1)


def _wait(gate: int) -> None:
    if os.read(gate, 1) != GO:
        os._exit(1)  # the parent gave up or is gone


def _namespaces(child: Child) -> None:
    for fd, kind in child.joins:
        sc.setns(fd, kind)
    _wait(child.gate)  # the maps are written, the cgroup is joined
    if child.own_user:
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    os.setsid()
    os.umask(0)
    if child.own_cgroup and not child.memory_apart:
        sc.unshare(sc.CLONE_NEWCGROUP)
    if child.loopback:
        sc.loopback_up()


def _enter(child: Child, stage: list[int]) -> None:
    """Everything between the hooks and the readiness to start."""
    stage[0] = ROOT
    if child.own_mounts:
        effects.pivot(child.propagation)
    else:
        effects.change_root()
    if child.hostname:
        sc.sethostname(child.hostname)
    if child.domainname:
        effects.write(b"/proc/sys/kernel/domainname", child.domainname)
    stage[0] = SYSCTL
    for path, value in child.sysctls:
        effects.write(path, value)
    stage[0] = TERMINAL
    if child.terminal >= 0:
        open_terminal(child.terminal, child.window)
    stage[0] = ROOT
    if child.read_only_root:
        effects.read_only_root()
    for call, arguments in child.hidden:
        call(*arguments)


def open_terminal(socket: int, window: bytes, console: bool = True) -> None:
    """A pseudo-terminal of the container's own devpts: the master goes to the console socket, the slave is
    ours.
    """
    master = os.open(b"/dev/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
    slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY)
    if window:
        fcntl.ioctl(slave, _TIOCSWINSZ, window)
    if console:
        _console(slave)
    peer = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, socket)
    peer.sendmsg([b"/dev/ptmx"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("i", master))])
    peer.close()
    os.close(master)
    fcntl.ioctl(slave, _TIOCSCTTY, 0)
    for number in range(3):
        os.dup2(slave, number)


def _console(slave: int) -> None:
    """Show the terminal as /dev/console, where the root has a /dev of its own."""
    try:
        where = effects.made(b"/dev/console", False)
        flags = sc.OPEN_TREE_CLONE | sc.OPEN_TREE_CLOEXEC | sc.AT_EMPTY_PATH
        tree = sc.open_tree(slave, b"", flags)
        sc.move_mount(tree, where)
        os.close(tree)
        os.close(where)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EPERM, errno.EINVAL, errno.ENOENT):
            raise


def _execute(child: Child, stage: list[int]) -> None:
    stage[0] = HOOK
    for path, argv, env in child.start_hooks:
        _start_hook(path, argv, env, child.state)
    if child.personality >= 0:
        sc.personality(child.personality)
    stage[0] = EXEC
    candidates = executing.runnable(child.candidates, effects.inside)
    stage[0] = CWD
    enter_directory(child.cwd)
    os.umask(child.rights.umask)
    sc.close_range(3 + child.keep)
    sc.default_signals()
    # From here the container's filter may be on: only calls that every profile knows.
    stage[0] = RIGHTS
    rights.put_on(child.rights, child.last_capability)
    stage[0] = EXEC
    if child.rights.program and child.rights.no_new_privileges:
        sc.seccomp_filter(child.rights.program)
    executing.run_first(candidates, child.argv, child.env)


def enter_directory(path: bytes) -> None:
    """Enter the working directory, made where it is missing; nothing may lead out of the root
    (CVE-2024-21626).
    """
    try:
        fd = effects.inside(path, os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        fd = effects.made(path, True)
    os.fchdir(fd)
    os.close(fd)
    if not os.getcwdb().startswith(b"/"):
        raise OSError(errno.ENOENT, "", path)


def _start_hook(path: bytes, argv: sc.Words, env: sc.Words, state: bytes) -> None:
    """Run a hook inside the container with the state on its stdin."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(read, 0)
        sc.close_range(3)
        try:
            sc.execve(path, argv, env)
        finally:
            os._exit(127)
    os.close(read)
    try:
        os.write(write, state)
    except BrokenPipeError:
        pass  # a hook need not read
    os.close(write)
    if os.waitpid(pid, 0)[1]:
        raise OSError(errno.ECANCELED, "", path)
