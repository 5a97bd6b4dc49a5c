"""The parent's side of a start: clone, maps, cgroup, gate, and the child's error told in words."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from containers import init, privileges, rootfs
from containers.mounts import describe
from containers.plan import Plan
from host.edges import Edges
from host.errors import Failure, NotFound
from host.linux import syscalls as sc
from host.linux.cgroup import Cgroup, Limits

if TYPE_CHECKING:
    import socket

    from containers.terminal import Wish
    from host.linux.idmap import IdMaps

CANNOT_EXECUTE, NOT_FOUND = 126, 127


class CannotExecute(Failure):
    """The command inside is missing (exit 127) or cannot be executed (126), as docker has it."""

    def __init__(self, command: str, number: int) -> None:
        missing = number in (errno.ENOENT, errno.ENOTDIR)
        why = "not found in the image" if missing else os.strerror(number)
        if number == errno.ELOOP:
            why = "it leads out of the container through /proc (CVE-2019-5736), or in circles"
        super().__init__("cannot run", command, why)
        self.exit_status = NOT_FOUND if missing else CANNOT_EXECUTE


class Launch(NamedTuple):
    """A plan made ready: encoded, with the filter loaded."""

    plan: Plan
    steps: list[rootfs.Step]
    late_steps: list[rootfs.Step]
    wanted: privileges.Privileges
    cgroup: Cgroup
    limits: Limits | None
    ulimits: tuple[tuple[str, int, int], ...] = ()
    devices: tuple[str, ...] = ()
    oom_score_adj: int | None = None
    maps: IdMaps | None = None
    terminal: Wish | None = None
    helper: int = -1
    body: Callable[[], None] | None = None
    leave: bool = False


class Streams(NamedTuple):
    """The descriptors that a start hands over."""

    stdio: tuple[int, int, int]
    status: int = -1
    master_to: socket.socket | None = None


def start(
    launch: Launch,
    streams: Streams,
    edges: Edges,
    before_go: Callable[[int], None],
    death_signal: int = signal.SIGKILL,
    orphan: bool = False,
) -> int:
    """Run the plan in a new process and return its pid once the command executes; an `orphan` is init's.

    `before_go` gets the pid while the child waits at its gate, in its namespaces. Raises
    what the child reported, with nothing left of it.
    """
    if len(os.listdir("/proc/self/task")) > 1:
        raise Failure(
            "cannot start the container", why="this process has threads, and clone(2) copies only one"
        )
    if launch.limits is not None and launch.maps:
        launch.cgroup.create(launch.limits, launch.devices)
    with _Ends(launch) as ends:
        child = _child(launch, streams, ends, death_signal)
        edges.mark("t2")
        with _clocks(launch.plan):
            pid = _clone(launch.plan.clone_flags, ends.joins, child, orphan)
        try:
            ends.close_childs()
            _prepare(pid, launch, ends.gate_write, before_go)
            _open_gate(ends.gate_write)
            _expect_success(launch.plan, ends.report_read)
            edges.mark("t6")
        except BaseException:
            put_down(pid)
            raise
    return pid


def _clocks(plan: Plan) -> contextlib.AbstractContextManager[None]:
    if plan.time_offset_s is None:
        return contextlib.nullcontext()
    from containers import clocks

    return clocks.shifted(plan.time_offset_s)


def _prepare(pid: int, launch: Launch, gate: int, before_go: Callable[[int], None]) -> None:
    """Our part, while the child makes its mounts: it waits at its gate for what it needs of this."""
    if launch.maps:
        from host.linux import idmap

        idmap.write(pid, launch.maps)
        _open_gate(gate)
    elif launch.limits is not None:
        launch.cgroup.create(launch.limits, launch.devices)
    if launch.cgroup.layout.version == 2:
        launch.cgroup.add(pid)
    if launch.ulimits or launch.oom_score_adj is not None:
        from containers import ulimits

        ulimits.impose(pid, launch.ulimits, launch.oom_score_adj)
    before_go(pid)


class _Ends:
    """The pipes, namespace files and porches of cgroups of one start, closed on every path.

    A mapped user may not open the doors, and a running container has its cgroups: both get the doors open.
    """

    def __init__(self, launch: Launch) -> None:
        self._launch = launch

    def __enter__(self) -> _Ends:
        self.joins: dict[str, int] = {}
        self.doors: list[int] = []
        self.porches: list[int] = []
        self.gate_read, self.gate_write = os.pipe2(os.O_CLOEXEC)
        self.report_read, self.report_write = os.pipe2(os.O_CLOEXEC)
        self._childs = [self.gate_read, self.report_write]
        try:
            for kind, path in self._launch.plan.joins:
                self.joins[kind] = _open_namespace(kind, path)
            limits, cgroup = self._launch.limits, self._launch.cgroup
            if limits is None or self._launch.maps:
                self.doors = cgroup.doors()
            else:
                self.porches = cgroup.porches(limits)
        except BaseException:
            self.__exit__()
            raise
        return self

    def close_childs(self) -> None:
        """Close what only the child may hold, or its death would not be an end of file."""
        for fd in (*self._childs, *self.joins.values(), *self.doors, *self.porches):
            os.close(fd)
        self._childs.clear()
        self.joins.clear()
        self.doors.clear()
        self.porches.clear()

    def __exit__(self, *_: object) -> None:
        self.close_childs()
        os.close(self.gate_write)
        os.close(self.report_read)


def _open_namespace(kind: str, path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise NotFound(f"cannot join the {kind} namespace", path, why) from None


def _child(launch: Launch, streams: Streams, ends: _Ends, death_signal: int) -> init.Child:
    plan = launch.plan
    return init.Child(
        steps=launch.steps,
        late_steps=launch.late_steps,
        privileges=launch.wanted,
        last_capability=privileges.last_capability(),
        cwd=os.fsencode(plan.cwd),
        umask=plan.umask,
        candidates=tuple(map(os.fsencode, plan.candidates)),
        argv=sc.Words([os.fsencode(word) for word in plan.argv]),
        env=sc.Words([os.fsencode(word) for word in plan.env]),
        stdio=streams.stdio,
        gate=ends.gate_read,
        report=ends.report_write,
        joins=tuple((fd, 0) for kind, fd in ends.joins.items() if kind != "pid"),
        doors=tuple(ends.doors),
        porches=tuple(ends.porches),
        door=launch.cgroup.door,
        wait_for_maps=launch.maps is not None,
        death_signal=0 if launch.leave else death_signal,
        leave=launch.leave,
        ignored=_ignored(),
        parents=(ends.gate_write, ends.report_read),
        helper=launch.helper,
        body=launch.body,
        status=streams.status,
        terminal=launch.terminal,
        master_to=streams.master_to,
    )


def _ignored() -> tuple[int, ...]:
    """The signals that we ignore (Python itself does SIGPIPE): the command shall not inherit that."""
    return tuple(number for number in range(1, signal.NSIG) if signal.getsignal(number) == signal.SIG_IGN)


def _clone(flags: int, joins: dict[str, int], child: init.Child, orphan: bool) -> int:
    """The child's pid; in the child this never returns. A pid namespace is entered by the next child only."""
    clone = _clone_orphan if orphan else _clone_into
    if "pid" not in joins:
        return clone(flags, child)
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        sc.setns(joins["pid"], sc.CLONE_NEWPID)
        return clone(flags, child)
    finally:
        _return_to(own)
        os.close(own)


def _return_to(own: int) -> None:
    try:
        sc.setns(own, sc.CLONE_NEWPID)
    except PermissionError:
        pass  # the go-between of a user namespace cannot go back, and starts nothing else


def _clone_orphan(flags: int, child: init.Child) -> int:
    """Clone through a process that ends at once: whoever starts a thousand containers is parent of none."""
    read, write = os.pipe2(os.O_CLOEXEC)
    middle = sc.clone3(0, signal.SIGCHLD)
    if middle == 0:
        try:
            os.write(write, b"%d" % _clone_into(flags, child))
        except OSError as error:
            os.write(write, b"-%d" % (error.errno or errno.EIO))
        finally:
            os._exit(0)
    os.close(write)
    answer = int(os.read(read, 32) or b"-5")
    os.close(read)
    os.waitpid(middle, 0)
    if answer < 0:
        raise OSError(-answer, os.strerror(-answer))
    return answer


def _clone_into(flags: int, child: init.Child) -> int:
    pid = sc.clone3(flags, signal.SIGCHLD)
    if pid == 0:
        init.main(child)
    return pid


def _open_gate(gate: int) -> None:
    try:
        os.write(gate, init.GO)
    except BrokenPipeError:
        pass  # the child ended before its gate: its report says why


def _expect_success(plan: Plan, report: int) -> None:
    said = os.read(report, 4096)
    if not said:
        return
    phase, step, number = init.REPORT.unpack_from(said)
    path = os.fsdecode(said[init.REPORT.size :])
    raise worded(plan, phase, step, number, path)


def worded(plan: Plan, phase: int, step: int, number: int, path: str) -> Failure:
    """What the child reported, as the sentence for the user."""
    why = os.strerror(number)
    if phase == init.EXEC:
        return CannotExecute(plan.command, number)
    if phase == init.TERMINAL:
        return Failure("cannot make a terminal", path, why)
    if phase == init.JOIN:
        return Failure("cannot enter the cgroup", plan.argv[0], why)
    if phase == init.CWD:
        return Failure("cannot enter the working directory", path, why)
    if phase == init.PRIVILEGES:
        return Failure("cannot give up privileges", plan.argv[0], why)
    ops = plan.late_ops if phase == init.CGROUP else plan.ops
    return Failure("cannot set up the container", path, f"{why}, at: {describe(ops[step])}")


def put_down(pid: int) -> None:
    """SIGKILL a process that we made, and wait for its end."""
    import select

    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        sc.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.waitpid(pid, 0)
    except ProcessLookupError:
        pass
    except ChildProcessError:  # an orphan: somebody else reaps it
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.poll(10_000)
    finally:
        os.close(pidfd)
