"""The parent's side of a start: the launcher spawned, maps, cgroup, gate, and its error told in words.

The other side is C (guest/launch.c): a fork of the interpreter would copy its page tables and then, as both
write on, page after page.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence

from containers import encoding, privileges
from containers.mounts import Op, describe
from containers.plan import Plan
from host import rawsignal as signal
from host.edges import Edges
from host.errors import Failure, HostUnfit, NotFound
from host.linux.cgroup import Cgroup, Limits
from host.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import socket

    from containers.terminal import Wish
    from host.linux.idmap import IdMaps

CANNOT_EXECUTE, NOT_FOUND = 126, 127


class CannotExecute(Failure):
    """The command inside is missing (exit 127) or cannot be executed (126), as docker has it."""

    def __init__(self, command: str, number: int, interpreter: str = "") -> None:
        missing = number in (errno.ENOENT, errno.ENOTDIR)
        why = "not found in the image" if missing else os.strerror(number)
        if interpreter:
            why = f"it is there, but its interpreter {interpreter} is not in the image"
        if number == errno.ELOOP:
            why = "it leads out of the container through /proc (CVE-2019-5736), or in circles"
        super().__init__("cannot run", command, why)
        self.exit_status = NOT_FOUND if missing else CANNOT_EXECUTE


class Launch(NamedTuple):
    """A plan made ready, with the filter loaded; `launcher` is the path of the helper that works it off."""

    plan: Plan
    steps: Sequence[Op]
    wanted: privileges.Privileges
    last_capability: int
    cgroup: Cgroup
    limits: Limits | None
    launcher: str
    ulimits: tuple[tuple[str, int, int], ...] = ()
    devices: tuple[str, ...] = ()
    oom_score_adj: int | None = None
    maps: IdMaps | None = None
    trees: Callable[[], dict[int, int]] | None = None  # makes what only the host's root may: slot -> mount
    terminal: Wish | None = None
    sheltered: bool = False  # the launcher runs from a mount that nobody can write through
    under_helper: bool = False  # the command's pid 1 is the helper that the steps opened
    leave: bool = False  # the command is left to the pid 1 of the namespace that we joined


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
    if launch.limits is not None and launch.maps:
        launch.cgroup.create(launch.limits, launch.devices)
    with Ends(launch) as ends:
        edges.mark("t2")
        middle = _spawned(launch, streams, ends, death_signal, orphan)
        try:
            ends.close_childs()
            _prepare(launch, ends, before_go)
            _open_gate(ends.gate_write)
            _expect_success(launch, ends.report_read)
            edges.mark("t6")
            return ends.pid()
        except BaseException:
            if ends.pid():
                put_down(ends.pid())
            raise
        finally:
            os.waitpid(middle, 0)


def _prepare(launch: Launch, ends: Ends, before_go: Callable[[int], None]) -> None:
    """Our part, while the child makes its mounts: it waits at its gate for what it needs of this."""
    if launch.limits is not None and not launch.maps:
        launch.cgroup.create(launch.limits, launch.devices)
    pid = ends.pid()
    if not pid:
        _expect_success(launch, ends.report_read)
        raise Failure("cannot start the container", launch.launcher, "the launcher ended", "make setup")
    if launch.maps:
        from host.linux import idmap

        idmap.write(pid, launch.maps)
        _open_gate(ends.gate_write)
    if launch.cgroup.layout.version == 2:
        launch.cgroup.add(pid)
    if launch.ulimits or launch.oom_score_adj is not None:
        from containers import ulimits

        ulimits.impose(pid, launch.ulimits, launch.oom_score_adj)
    before_go(pid)


class Ends:
    """The pipes, mounts, namespace files and porches of cgroups of one start, closed on every path.

    A mapped user may not open the doors, and a running container has its cgroups: both get the doors open.
    """

    def __init__(self, launch: Launch) -> None:
        self._launch = launch

    def __enter__(self) -> Ends:
        self.joins: dict[str, int] = {}
        self.doors: list[int] = []
        self.porches: list[int] = []
        self.trees: dict[int, int] = {}
        self._pid = -1
        self.gate_read, self.gate_write = os.pipe2(os.O_CLOEXEC)
        self.report_read, self.report_write = os.pipe2(os.O_CLOEXEC)
        self.started_read, self.started_write = os.pipe2(os.O_CLOEXEC)
        self._childs = [self.gate_read, self.report_write, self.started_write]
        try:
            if self._launch.trees:
                self.trees = self._launch.trees()
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

    def childs(self) -> list[int]:
        """What the launcher inherits of these."""
        return [*self._childs, *self.trees.values(), *self.joins.values(), *self.doors, *self.porches]

    def close_childs(self) -> None:
        """Close what only the child may hold, or its death would not be an end of file."""
        for fd in self.childs():
            os.close(fd)
        for held in (self._childs, self.trees, self.joins, self.doors, self.porches):
            held.clear()

    def pid(self) -> int:
        """The child's pid, as the process in between tells it; 0 where it could make none."""
        if self._pid < 0:
            said = os.read(self.started_read, encoding.PID.size)
            self._pid = encoding.PID.unpack(said)[0] if said else 0
        return self._pid

    def __exit__(self, *_: object) -> None:
        self.close_childs()
        for fd in (self.gate_write, self.report_read, self.started_read):
            os.close(fd)


def _open_namespace(kind: str, path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise NotFound(f"cannot join the {kind} namespace", path, why) from None


def _spawned(launch: Launch, streams: Streams, ends: Ends, death_signal: int, orphan: bool) -> int:
    """The pid of the process in between, which makes the child: ours, or an orphan of its own."""
    plan = os.memfd_create("plan", os.MFD_CLOEXEC)
    try:
        os.write(plan, encoding.encoded(launch, streams, ends, death_signal, orphan))
        given = {plan, *ends.childs(), *streams.stdio, streams.status}
        if streams.master_to:
            given.add(streams.master_to.fileno())
        # posix_spawn(3): onto itself, a descriptor stays where it is and loses its FD_CLOEXEC
        actions = [(os.POSIX_SPAWN_DUP2, fd, fd) for fd in given if fd >= 0]
        argv = ["vmm-guest", "shelter" if launch.sheltered else "launch", str(plan)]
        return os.posix_spawn(launch.launcher, argv, {}, file_actions=actions, setsigdef=_ignored())
    finally:
        os.close(plan)


def _ignored() -> list[int]:
    """The signals that we ignore (Python itself does SIGPIPE): the command shall not inherit that."""
    return [number for number in range(1, signal.NSIG) if signal.getsignal(number) == signal.SIG_IGN]


def _open_gate(gate: int) -> None:
    try:
        os.write(gate, encoding.GO)
    except BrokenPipeError:
        pass  # the child ended before its gate: its report says why


def _expect_success(launch: Launch, report: int) -> None:
    said = os.read(report, 8192)
    if not said:
        return
    phase, step, number = encoding.REPORT.unpack_from(said)
    path = os.fsdecode(said[encoding.REPORT.size :])
    raise _worded(launch, phase, step, number, path)


def _worded(launch: Launch, phase: int, step: int, number: int, path: str) -> Failure:
    """What the child reported, as the sentence for the user."""
    plan, why = launch.plan, os.strerror(number)
    if phase == encoding.EXEC:
        return CannotExecute(plan.command, number)
    if phase == encoding.INTERPRETER:
        return CannotExecute(plan.command, number, path)
    if phase == encoding.TERMINAL:
        return Failure("cannot make a terminal", path, why)
    if phase == encoding.JOIN:
        return Failure("cannot enter the cgroup", plan.argv[0], why)
    if phase == encoding.CWD:
        return Failure("cannot enter the working directory", path, why)
    if phase == encoding.PRIVILEGES:
        return Failure("cannot give up privileges", plan.argv[0], why)
    if phase == encoding.NAMESPACES:
        return Failure("cannot make or enter the namespaces", plan.argv[0], why)
    if phase == encoding.CLOCKS:
        hint = "as root, on a kernel with CONFIG_TIME_NS; or leave --time-offset out"
        return HostUnfit("cannot make the time namespace", why=why, hint=hint)
    ops = plan.late_ops if phase == encoding.CGROUP else launch.steps
    return Failure("cannot set up the container", path, f"{why}, at: {describe(ops[step])}")


def put_down(pid: int) -> None:
    """SIGKILL a process that we made, and wait for its end."""
    import select

    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.waitpid(pid, 0)
    except ProcessLookupError:
        pass
    except ChildProcessError:  # an orphan: somebody else reaps it
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.poll(10_000)
    finally:
        os.close(pidfd)
