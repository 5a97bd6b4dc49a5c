"""A further command in a running container: into all its namespaces, its cgroup, its rights, and no
further.
"""

from __future__ import annotations

import fcntl
import os

from containers import foreground, launch, plan, privileges, runtime, users
from host import paths
from host import rawsignal as signal
from host.edges import Edges
from host.errors import Failure, WrongState
from host.exec_request import ExecRequest
from host.stdio import Stdio
from host.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from containers.container import Container

_F_ADD_SEALS, _ALL_SEALS = 1033, 0x0F  # fcntl(2): SEAL, SHRINK, GROW, WRITE
# setns(2): the user namespace first gives the right to the others; the mount namespace last takes the
# host's view.
_ORDER = ("user", "ipc", "uts", "net", "pid", "cgroup", "time", "mnt")


def run(
    container: Container,
    request: ExecRequest,
    stdio: Stdio,
    edges: Edges | None = None,
) -> int:
    """Run the command and return its status; 126 and 127 are told on stdio.stderr.

    Raises WrongState where the container does not run or is paused.
    """
    init = running(container)
    if os.geteuid() != 0 and differs(init.pid, "user"):
        return _through_user_namespace(container, init, request, stdio)
    return _run(container, init, request, stdio, edges or Edges())


def running(container: Container) -> runtime.Init:
    """Its first process. Raises WrongState where it does not run or is paused."""
    init = runtime.living(container.run_dir)
    if init is None:
        raise WrongState(
            "cannot run a command in", container.spec.name, "it is not running", "vmm start it first"
        )
    if container.cgroup().frozen():
        raise WrongState(
            "cannot run a command in", container.spec.name, "it is paused", "vmm resume it first"
        )
    return init


def differs(pid: int, kind: str) -> bool:
    """Whether that process is in another namespace than we are."""
    try:
        theirs, ours = os.stat(f"/proc/{pid}/ns/{kind}"), os.stat(f"/proc/self/ns/{kind}")
    except OSError as error:
        raise WrongState("cannot enter the container", str(pid), os.strerror(error.errno or 0)) from None
    return theirs.st_ino != ours.st_ino


def _through_user_namespace(
    container: Container,
    init: runtime.Init,
    request: ExecRequest,
    stdio: Stdio,
) -> int:
    """Only who is in the user namespace may enter the pid namespace it owns: a go-between enters and
    carries on.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, foreground.PROXIED | {signal.SIGCHLD})
    try:
        pid = os.fork()
        if pid == 0:
            _go_between(container, init, request, stdio)
        return foreground.watch(pid)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _go_between(
    container: Container,
    init: runtime.Init,
    request: ExecRequest,
    stdio: Stdio,
) -> None:
    from host.linux import syscalls as sc

    status = 125
    try:
        sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL)
        helper = _sealed_helper()
        fd = os.open(f"/proc/{init.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        sc.setns(fd, sc.CLONE_NEWUSER)
        os.close(fd)
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        status = _run(container, init, request, stdio, Edges(), helper)
    except Failure as error:
        os.write(stdio.stderr, f"vmm: {error.told()}\n".encode())
    except OSError as error:
        os.write(stdio.stderr, f"vmm: cannot enter the container: {error}\n".encode())
    finally:
        os._exit(status)


def _run(
    container: Container,
    init: runtime.Init,
    request: ExecRequest,
    stdio: Stdio,
    edges: Edges,
    helper: int = -1,
) -> int:
    launcher = f"/proc/self/fd/{helper}" if helper >= 0 else str(paths.guest_helper())
    tty = request.tty and stdio.tty
    before = signal.pthread_sigmask(signal.SIG_BLOCK, foreground.PROXIED | {signal.SIGCHLD})
    try:
        ready = launch_in(container, init, request, stdio if tty else None)
        ready = ready._replace(launcher=launcher, sheltered=helper < 0)
        supervise = foreground.on_terminal if tty else foreground.plain
        return supervise(ready, stdio, edges, lambda pid: still_same(init))
    except launch.CannotExecute as error:
        os.write(2 if request.detach else stdio.stderr, f"vmm: {error}\n".encode())
        return error.exit_status
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def launch_in(
    container: Container, init: runtime.Init, request: ExecRequest, terminal: Stdio | None = None
) -> launch.Launch:
    """The further command made ready: the container's namespaces and cgroup, its rights unless asked
    otherwise.
    """
    spec = container.spec
    roots = (str(container.folder / "upper"), *spec.lower_dirs)
    identity = users.resolve(request.user or spec.user, roots, () if request.user else spec.groups)
    words = spec._replace(
        argv=request.argv,
        env=(*spec.env, *request.env),
        cwd=request.cwd or spec.cwd,
        tty=request.tty,
        privileged=request.privileged or spec.privileged,
    )
    joins = tuple((kind, f"/proc/{init.pid}/ns/{kind}") for kind in _ORDER if differs(init.pid, kind))
    made = plan.joining(spec, identity, joins, words)
    wanted = container.privileges(made, _may_set_groups(init.pid), words.privileged)
    if request.privileged:
        wanted = wanted._replace(no_new_privileges=False, program=b"")
    return launch.Launch(
        plan=made,
        steps=(),
        wanted=wanted,
        last_capability=privileges.last_capability(),
        cgroup=container.cgroup(),
        limits=None,
        launcher="",
        ulimits=spec.ulimits,
        terminal=foreground.wish(terminal, identity.uid, console=False) if terminal else None,
        leave=request.detach,
    )


def _may_set_groups(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/setgroups", "rb") as file:
            return file.read().strip() == b"allow"
    except OSError:
        return True


def still_same(init: runtime.Init) -> None:
    """Raise WrongState unless the pid, by which files were opened, meant that process all the while."""
    if runtime.start_ticks(init.pid) != init.start_ticks:
        raise WrongState("cannot run the command", why="the container ended meanwhile")


def _sealed_helper() -> int:
    """A copy of the helper in sealed memory: a user may not make mounts outside its namespaces."""
    data = paths.guest_helper().read_bytes()
    fd = os.memfd_create("vmm-guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, data)
    fcntl.fcntl(fd, _F_ADD_SEALS, _ALL_SEALS)
    return fd
