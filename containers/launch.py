"""The parent's side of a start: clone, maps, cgroup, gate, and the child's error told in words."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from containers import init, privileges, rootfs
from containers.mounts import describe
from containers.plan import Plan
from host.edges import Edges
from host.errors import Failure, NotFound
from host.linux import syscalls as sc
from host.linux.cgroup import Cgroup, Limits

CANNOT_EXECUTE, NOT_FOUND = 126, 127


class CannotExecute(Failure):
    """The command inside is missing (exit 127) or cannot be executed (126), as docker has it."""

    def __init__(self, command: str, number: int) -> None:
        missing = number in (errno.ENOENT, errno.ENOTDIR)
        why = "not found in the image" if missing else os.strerror(number)
        super().__init__("cannot run", command, why)
        self.exit_status = NOT_FOUND if missing else CANNOT_EXECUTE


class Launch(NamedTuple):
    """A plan made ready: encoded, with the filter loaded."""

    plan: Plan
    steps: list[rootfs.Step]
    late_steps: list[rootfs.Step]
    wanted: privileges.Privileges
    cgroup: Cgroup
    limits: Limits
    ulimits: tuple[tuple[str, int, int], ...] = ()
    oom_score_adj: int | None = None


class Started(NamedTuple):
    """A child past its gate; `report` ends without a byte once the command runs."""

    pid: int
    report: int


def start(
    launch: Launch, stdio: tuple[int, int, int], edges: Edges, death_signal: int = signal.SIGKILL
) -> int:
    """Run the plan in a new process and return its pid once the command executes.

    Raises what the child reported, with nothing left of it. Signals stay blocked for the caller to take.
    """
    gate_read, gate_write = os.pipe2(os.O_CLOEXEC)
    report_read, report_write = os.pipe2(os.O_CLOEXEC)
    joins = _open_joins(launch.plan.joins)
    try:
        child = _child(launch, stdio, tuple(joins.values()), gate_read, report_write, death_signal)
        edges.mark("t2")
        pid = _clone(launch.plan.clone_flags, joins, child)
        for fd in (gate_read, report_write, *joins.values()):
            os.close(fd)
    except BaseException:
        for fd in (gate_read, gate_write, report_read, report_write, *joins.values()):
            os.close(fd)
        raise
    try:
        launch.cgroup.create(launch.limits)
        launch.cgroup.add(pid)
        _limit_process(pid, launch)
        os.write(gate_write, init.GO)
        _expect_success(launch, report_read)
        edges.mark("t6")
    except BaseException:
        put_down(pid)
        raise
    finally:
        os.close(gate_write)
        os.close(report_read)
    return pid


def _open_joins(joins: Sequence[tuple[str, str]]) -> dict[str, int]:
    opened: dict[str, int] = {}
    try:
        for kind, path in joins:
            opened[kind] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        for fd in opened.values():
            os.close(fd)
        raise NotFound(f"cannot join the {kind} namespace", path, os.strerror(error.errno or 0)) from None
    return opened


def _child(
    launch: Launch,
    stdio: tuple[int, int, int],
    joins: tuple[int, ...],
    gate: int,
    report: int,
    death_signal: int,
) -> init.Child:
    plan = launch.plan
    return init.Child(
        joins=joins,
        steps=launch.steps,
        late_steps=launch.late_steps,
        privileges=launch.wanted,
        last_capability=privileges.last_capability(),
        cwd=os.fsencode(plan.cwd),
        umask=plan.umask,
        candidates=tuple(map(os.fsencode, plan.candidates)),
        argv=sc.Words([os.fsencode(word) for word in plan.argv]),
        env=sc.Words([os.fsencode(word) for word in plan.env]),
        stdio=stdio,
        gate=gate,
        report=report,
        wait_for_maps=bool(plan.clone_flags & sc.CLONE_NEWUSER),
        death_signal=death_signal,
    )


def _clone(flags: int, joins: dict[str, int], child: init.Child) -> int:
    """The child's pid; in the child this never returns. A pid namespace is entered by the next child only."""
    own = -1
    if "pid" in joins:
        own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        sc.setns(joins["pid"], sc.CLONE_NEWPID)
    try:
        pid = sc.clone3(flags, signal.SIGCHLD)
        if pid == 0:
            init.main(child)
    finally:
        if own >= 0:
            sc.setns(own, sc.CLONE_NEWPID)
            os.close(own)
    return pid


def _limit_process(pid: int, launch: Launch) -> None:
    import resource

    for name, soft, hard in launch.ulimits:
        resource.prlimit(pid, getattr(resource, f"RLIMIT_{name.upper()}"), (soft, hard))
    if launch.oom_score_adj is not None:
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(launch.oom_score_adj))


def _expect_success(launch: Launch, report: int) -> None:
    said = os.read(report, 4096)
    if not said:
        return
    phase, step, number = init.REPORT.unpack_from(said)
    path = os.fsdecode(said[init.REPORT.size :])
    raise worded(launch.plan, phase, step, number, path)


def worded(plan: Plan, phase: int, step: int, number: int, path: str) -> Failure:
    """What the child reported, as the sentence for the user."""
    why = os.strerror(number)
    if phase == init.EXEC:
        return CannotExecute(plan.argv[0], number)
    if phase == init.CWD:
        return Failure("cannot enter the working directory", path, why)
    if phase == init.PRIVILEGES:
        return Failure("cannot give up privileges", plan.argv[0], why)
    ops = plan.late_ops if phase == init.CGROUP else plan.ops
    return Failure("cannot set up the container", path, f"{why}, at: {describe(ops[step])}")


def put_down(pid: int) -> None:
    """SIGKILL a child of ours and reap it."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    os.waitpid(pid, 0)
