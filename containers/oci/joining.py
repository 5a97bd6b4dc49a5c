"""exec: one more process in a running container."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import NamedTuple

from containers import executing, privileges
from containers.oci import child, creating, effects, filters, processes, rights
from containers.oci.bundle import Config, check_process
from containers.oci.states import State
from host.errors import BadData, Failure, WrongState
from host.linux import syscalls as sc

# user comes first for its rights, mnt last: until then /proc of the host is in sight
ORDER = ("user", "cgroup", "ipc", "uts", "net", "pid", "mnt")


class Joining(NamedTuple):
    """What exec was asked."""

    process: Config
    detach: bool = False
    pid_file: str = ""
    console_socket: str = ""
    preserve_fds: int = 0


class Joiner(NamedTuple):
    """Everything for the child, encoded."""

    namespaces: tuple[int, ...]
    own_user: bool
    terminal: int
    window: bytes
    rights: rights.Rights
    last_capability: int
    cwd: bytes
    candidates: tuple[bytes, ...]
    argv: sc.Words
    env: sc.Words
    gate: int
    report: int
    foreign: tuple[int, ...]
    keep: int


def merged(state: State, process: Config) -> Config:
    """The process with the container's own words where it is silent: capabilities, no_new_privs,
    environment.
    """
    base = state.bundle.config["process"]
    filled = dict(process)
    for key in ("capabilities", "noNewPrivileges", "cwd", "user", "env", "rlimits", "oomScoreAdj"):
        if filled.get(key) is None and base.get(key) is not None:
            filled[key] = base[key]
    check_process(filled)
    return filled


def execute(state: State, asked: Joining, cache: str) -> int:
    """Run the process; its status, or 0 at once with `detach`. Raises WrongState where the container does
    not run.
    """
    status = state.status()
    if status not in ("running", "created"):
        raise WrongState("cannot exec in", state.id, f"container not running: it is {status}")
    process = merged(state, asked.process)
    if process.get("terminal") and not asked.console_socket:
        raise BadData("cannot exec", process["args"][0], "a terminal needs --console-socket")
    opened: list[int] = []
    try:
        pid = _started(state, process, asked, cache, opened)
    finally:
        for fd in opened:
            os.close(fd)
    if asked.detach:
        return 0
    return wait_child(pid)


def _started(state: State, process: Config, asked: Joining, cache: str, opened: list[int]) -> int:
    pipes = creating.Pipes(*os.pipe2(os.O_CLOEXEC), *os.pipe2(os.O_CLOEXEC))
    opened += pipes
    joiner = _joiner(state, process, asked, cache, pipes, opened)
    pid = _clone(state.pid, joiner)
    for fd in (pipes.gate_read, pipes.report_write):
        opened.remove(fd)
        os.close(fd)
    try:
        state.group().add(pid)
        processes.limit_process(process, pid)
        os.write(pipes.gate_write, child.GO)
        said = os.read(pipes.report_read, 4096)
        if said:
            raise creating.worded(said[1:], process)
        if asked.pid_file:
            temp = f"{asked.pid_file}.{os.getpid()}"
            Path(temp).write_text(str(pid))
            os.rename(temp, asked.pid_file)
    except BaseException:
        creating.put_down(pid)
        raise
    return pid


def _joiner(
    state: State, process: Config, asked: Joining, cache: str, pipes: creating.Pipes, opened: list[int]
) -> Joiner:
    namespaces = tuple(_namespaces(state.pid))
    opened += namespaces
    profile = state.bundle.part("linux", "seccomp") or {}
    held = None if _other(state.pid, "user") else rights.ours()
    wanted, _ = rights.of_process(process, filters.program(profile, cache), held)
    env = processes.environment(process, f"/proc/{state.pid}/root")
    console = processes.console(asked.console_socket, opened) if process.get("terminal") else -1
    return Joiner(
        namespaces=namespaces,
        own_user=_other(state.pid, "user"),
        terminal=console,
        window=processes.window(process),
        rights=wanted,
        last_capability=privileges.last_capability(),
        cwd=os.fsencode(process["cwd"]),
        candidates=tuple(map(os.fsencode, processes.candidates(process, env))),
        argv=sc.Words([os.fsencode(word) for word in process["args"]]),
        env=sc.Words([os.fsencode(word) for word in env]),
        gate=pipes.gate_read,
        report=pipes.report_write,
        foreign=(pipes.gate_write, pipes.report_read),
        keep=asked.preserve_fds,
    )


def _namespaces(pid: int) -> list[int]:
    found = []
    try:
        for kind in ORDER:
            if _other(pid, kind):
                found.append(os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        for fd in found:
            os.close(fd)
        why = f"container not running: {os.strerror(error.errno or 0)}"  # it ended after it was looked at
        raise WrongState("cannot exec", f"in process {pid}", why) from None
    return found


def _other(pid: int, kind: str) -> bool:
    """Whether that process is in another namespace than we are: joining one's own user namespace is
    refused.
    """
    return os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")


def _clone(init: int, joiner: Joiner) -> int:
    """The new process's pid. We enter the pid namespace for our children, and make the one child there."""
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    other = os.open(f"/proc/{init}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _other(init, "pid"):
            sc.setns(other, sc.CLONE_NEWPID)
        # Not to be traced, and our /proc/PID/exe not to be opened, by the container's root (CVE-2016-9962).
        sc.prctl(sc.PR_SET_DUMPABLE, 0)
        pid = sc.clone3(0, signal.SIGCHLD)
        if pid == 0:
            _become(joiner)
    except OSError as error:
        raise Failure("cannot join the namespaces", why=os.strerror(error.errno or 0)) from None
    finally:
        sc.setns(own, sc.CLONE_NEWPID)
        os.close(own)
        os.close(other)
    return pid


def _become(joiner: Joiner) -> None:
    """The child: never returns."""
    stage = child.NAMESPACES
    try:
        for fd in joiner.foreign:
            os.close(fd)
        if os.read(joiner.gate, 1) != child.GO:
            os._exit(1)
        os.setsid()
        for fd in joiner.namespaces:
            sc.setns(fd, 0)
        if joiner.own_user:
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
        os.chdir(b"/")
        if joiner.terminal >= 0:
            stage = child.TERMINAL
            child.open_terminal(joiner.terminal, joiner.window, console=False)
        stage = child.EXEC
        found = executing.runnable(joiner.candidates, effects.inside)
        stage = child.CWD
        child.enter_directory(joiner.cwd)
        os.umask(joiner.rights.umask)
        sc.close_range(3 + joiner.keep)
        sc.default_signals()
        stage = child.RIGHTS
        rights.put_on(joiner.rights, joiner.last_capability)
        stage = child.EXEC
        if joiner.rights.program and joiner.rights.no_new_privileges:
            sc.seccomp_filter(joiner.rights.program)
        executing.run_first(found, joiner.argv, joiner.env)
    except OSError as error:
        path = error.filename if isinstance(error.filename, bytes) else b""
        os.write(joiner.report, child.FAILED + child.REPORT.pack(stage, error.errno or 5) + path)
    finally:
        os._exit(1)


def wait_child(pid: int) -> int:
    """The status of our child, signals passed on meanwhile."""
    passed = {signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, passed | {signal.SIGCHLD})
    try:
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                return 128 - code if code < 0 else code
            number = signal.sigwait(passed | {signal.SIGCHLD})
            if number != signal.SIGCHLD:
                os.kill(pid, number)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
