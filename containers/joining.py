"""A further command in a running container: into all its namespaces, its cgroup, its rights, and no
further.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

from containers import foreground, launch, plan, runtime, users
from host import paths
from host.edges import Edges
from host.errors import Failure, WrongState
from host.exec_request import ExecRequest
from host.linux import syscalls as sc
from host.stdio import Stdio

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
    body: Callable[[], None] | None = None,
) -> int:
    """Run the command and return its status; 126 and 127 are told on stdio.stderr.

    A `body` runs inside in the command's place, with its rights; it may import nothing.
    Raises WrongState where the container does not run or is paused.
    """
    init = runtime.living(container.run_dir)
    if init is None:
        raise WrongState(
            "cannot run a command in", container.spec.name, "it is not running", "vmm start it first"
        )
    if container.cgroup().frozen():
        raise WrongState(
            "cannot run a command in", container.spec.name, "it is paused", "vmm resume it first"
        )
    if os.geteuid() != 0 and _differs(init.pid, "user"):
        return _through_user_namespace(container, init, request, stdio, body)
    return _run(container, init, request, stdio, edges or Edges(), body)


def _differs(pid: int, kind: str) -> bool:
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
    body: Callable[[], None] | None,
) -> int:
    """Only who is in the user namespace may enter the pid namespace it owns: a go-between enters and
    carries on.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, foreground.PROXIED | {signal.SIGCHLD})
    try:
        pid = os.fork()
        if pid == 0:
            _go_between(container, init, request, stdio, body)
        return foreground.watch(pid)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _go_between(
    container: Container,
    init: runtime.Init,
    request: ExecRequest,
    stdio: Stdio,
    body: Callable[[], None] | None,
) -> None:
    status = 125
    try:
        sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL)
        helper = _sealed_helper()
        fd = os.open(f"/proc/{init.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        sc.setns(fd, sc.CLONE_NEWUSER)
        os.close(fd)
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        status = _run(container, init, request, stdio, Edges(), body, helper)
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
    body: Callable[[], None] | None,
    helper: int = -1,
) -> int:
    helper = helper if helper >= 0 else _read_only_helper()
    tty = request.tty and stdio.tty
    before = signal.pthread_sigmask(signal.SIG_BLOCK, foreground.PROXIED | {signal.SIGCHLD})
    try:
        ready = _launch(container, init, request, helper, stdio if tty else None)._replace(body=body)
        supervise = foreground.on_terminal if tty else foreground.plain
        return supervise(ready, stdio, edges, lambda pid: _still_same(init))
    except launch.CannotExecute as error:
        os.write(2 if request.detach else stdio.stderr, f"vmm: {error}\n".encode())
        return error.exit_status
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(helper)


def _launch(
    container: Container, init: runtime.Init, request: ExecRequest, helper: int, terminal: Stdio | None
) -> launch.Launch:
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
    joins = tuple((kind, f"/proc/{init.pid}/ns/{kind}") for kind in _ORDER if _differs(init.pid, kind))
    made = plan.joining(spec, identity, joins, words)
    wanted = container.privileges(made, _may_set_groups(init.pid))
    if request.privileged:
        wanted = wanted._replace(no_new_privileges=False, program=b"")
    return launch.Launch(
        plan=made,
        steps=[],
        late_steps=[],
        wanted=wanted,
        cgroup=container.cgroup(),
        limits=None,
        ulimits=spec.ulimits,
        terminal=foreground.wish(terminal, identity.uid, console=False) if terminal else None,
        helper=helper,
        leave=request.detach,
    )


def _may_set_groups(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/setgroups", "rb") as file:
            return file.read().strip() == b"allow"
    except OSError:
        return True


def _still_same(init: runtime.Init) -> None:
    # The namespace files were opened by pid: make sure that the pid meant the same process all the while.
    if runtime.start_ticks(init.pid) != init.start_ticks:
        raise WrongState("cannot run the command", why="the container ended meanwhile")


def _read_only_helper() -> int:
    """The helper on a mount of its own that nobody can write through, whatever path leads to it."""
    path = os.fsencode(paths.guest_helper())
    fd = sc.open_tree(sc.AT_FDCWD, path, sc.OPEN_TREE_CLONE | sc.OPEN_TREE_CLOEXEC)
    sc.mount_setattr(fd, b"", sc.AT_EMPTY_PATH, sc.MOUNT_ATTR_RDONLY)
    return fd


def _sealed_helper() -> int:
    """A copy of the helper in sealed memory: a user may not make mounts outside its namespaces."""
    data = paths.guest_helper().read_bytes()
    fd = os.memfd_create("vmm-guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, data)
    fcntl.fcntl(fd, _F_ADD_SEALS, _ALL_SEALS)
    return fd
