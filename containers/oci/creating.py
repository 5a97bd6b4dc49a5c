"""create and run: the parent's side. All is released again where a step fails."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from containers import privileges
from containers.oci import (
    child,
    effects,
    filters,
    groups,
    hooks,
    limits,
    mounting,
    namespaces,
    processes,
    rights,
    states,
)
from containers.oci.bundle import Bundle, Config, check_process
from containers.oci.states import State
from host.errors import BadData, Failure, HostUnfit, Unsupported
from host.linux import cgroup
from host.linux import syscalls as sc

CACHE = "filters"


class Options(NamedTuple):
    """The words of create and run."""

    root: Path
    id: str
    pid_file: str = ""
    console_socket: str = ""
    preserve_fds: int = 0
    keep_pivot: bool = True
    warn: Callable[[str], None] = lambda _: None


def create(bundle: Bundle, options: Options) -> State:
    """Create the container: its process is set up and waits for `start`."""
    folder = states.claim(options.root, options.id)
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    path = groups.path_of(bundle.part("linux"), options.id)
    state = State(folder, options.id, bundle, 0, 0, path, created)
    opened: list[int] = []
    try:
        state.write()
        return _born(state, options, opened)
    except BaseException:
        state.remove()
        raise
    finally:
        for fd in opened:
            _close(fd)


def _close(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:
        pass  # handed on and closed already


def _born(state: State, options: Options, opened: list[int]) -> State:
    bundle, process = state.bundle, state.bundle.config.get("process")
    if not process:
        raise BadData("cannot create", state.id, "the bundle names no process")
    _refuse(bundle, process, options)
    group = state.group()
    existed = any(os.path.isdir(path) and cgroup.pids_below(path) for _, path in group.directories())
    if existed:
        options.warn(f"the cgroup {state.cgroup} is in use already")
    pipes = _pipes(opened)
    plan = _child(state, options, group, pipes, opened)
    pid = namespaces.clone(bundle, plan)
    # The child has its own copies; ours would keep it from seeing that we are gone, and us from seeing
    # its end.
    for fd in (pipes.gate_read, pipes.report_write):
        opened.remove(fd)
        os.close(fd)
    try:
        namespaces.map_users(bundle, pid)
        group.create()
        _limit(bundle, group)
        group.add(pid, memory=False)
        processes.limit_process(process, pid)
        return _brought_up(state._replace(pid=pid, started_ticks=states.ticks(pid)), options, group, pipes)
    except BaseException:
        put_down(pid)
        release_mounts(bundle)
        group.remove()
        raise


def release_mounts(bundle: Bundle) -> None:
    """Take away what a bundle without a mount namespace has left on the host; others leave nothing."""
    if not bundle.has("mount"):
        try:
            sc.umount2(os.fsencode(bundle.rootfs), sc.MNT_DETACH | sc.UMOUNT_NOFOLLOW)
        except OSError:
            pass  # nothing is mounted there


class Pipes(NamedTuple):
    """gate: parent to child; report: child to parent."""

    gate_read: int
    gate_write: int
    report_read: int
    report_write: int


def _pipes(opened: list[int]) -> Pipes:
    pipes = Pipes(*os.pipe2(os.O_CLOEXEC), *os.pipe2(os.O_CLOEXEC))
    opened += pipes
    return pipes


def _refuse(bundle: Bundle, process: Config, options: Options) -> None:
    """What we could not keep is refused, not left out."""
    check_process(process)
    linux = bundle.part("linux")
    if linux.get("intelRdt"):
        raise Unsupported("cannot create", options.id, "linux.intelRdt is not known here")
    if process.get("apparmorProfile") and not os.path.exists("/sys/kernel/security/apparmor"):
        raise HostUnfit(
            "cannot create", options.id, "this kernel has no AppArmor", "leave apparmorProfile out"
        )
    if (process.get("selinuxLabel") or linux.get("mountLabel")) and not os.path.exists(
        "/sys/fs/selinux/enforce"
    ):
        raise HostUnfit("cannot create", options.id, "this host has no SELinux", "leave the labels out")
    if process.get("terminal") and not options.console_socket:
        raise BadData("cannot create", options.id, "a terminal needs --console-socket")
    if options.console_socket and not process.get("terminal"):
        raise BadData("cannot create", options.id, "--console-socket without process.terminal")
    propagation = linux.get("rootfsPropagation") or ""
    if propagation and propagation not in mounting.PROPAGATION:
        raise BadData("cannot use rootfsPropagation", propagation, "not a propagation")


def _child(
    state: State, options: Options, group: groups.Group, pipes: Pipes, opened: list[int]
) -> child.Child:
    bundle, process = state.bundle, state.bundle.config["process"]
    linux = bundle.part("linux")
    spaces = {one["type"]: one.get("path") for one in linux.get("namespaces") or ()}
    own_user = "user" in spaces
    program = filters.program(linux.get("seccomp") or {}, str(options.root / CACHE))
    held = None if own_user else rights.ours()
    wanted, missing = rights.of_process(process, program, held)
    for name in missing:
        options.warn(f"the capability {name} cannot be granted here: left out")
    start, report = _start_fifos(state, opened)
    pairs = group.directories() if group.version == 1 else []
    ops = mounting.operations(bundle, pairs, own_user) + mounting.devices(bundle, own_user)
    env = processes.environment(process, bundle.rootfs)
    personality = linux.get("personality")
    return child.Child(
        joins=namespaces.joins(spaces, opened),
        own_user=own_user and not spaces.get("user"),
        own_cgroup="cgroup" in spaces and not spaces["cgroup"],
        memory_apart=group.version == 1,
        own_mounts="mount" in spaces,
        rootfs=os.fsencode(bundle.rootfs),
        mounts=effects.compiled(ops),
        container_hooks=_container_hooks(state),
        propagation=mounting.PROPAGATION.get(linux.get("rootfsPropagation") or "", 0),
        hostname=os.fsencode(bundle.config.get("hostname") or ""),
        domainname=os.fsencode(bundle.config.get("domainname") or ""),
        sysctls=_sysctls(linux, spaces),
        hidden=effects.compiled(mounting.hidden(bundle)),
        read_only_root=bool(bundle.part("root").get("readonly")),
        loopback="network" in spaces and not spaces["network"],
        terminal=processes.console(options.console_socket, opened) if process.get("terminal") else -1,
        window=processes.window(process),
        rights=wanted,
        last_capability=privileges.last_capability(),
        personality=processes.personality(personality) if personality else -1,
        cwd=os.fsencode(process["cwd"]),
        start_hooks=tuple(_encoded(hook) for hook in hooks.listed(bundle, "startContainer")),
        state=states.encoded(state.document("created")),
        candidates=tuple(map(os.fsencode, processes.candidates(process, env))),
        argv=sc.Words([os.fsencode(word) for word in process["args"]]),
        env=sc.Words([os.fsencode(word) for word in env]),
        foreign=(pipes.gate_write, pipes.report_read),
        gate=pipes.gate_read,
        report=pipes.report_write,
        start=start,
        start_report=report,
        keep=options.preserve_fds,
    )


def _start_fifos(state: State, opened: list[int]) -> tuple[int, int]:
    """The child reads `start` through a descriptor that also writes, so that it never sees the end of the
    file.
    """
    for name in ("start", "report"):
        os.mkfifo(state.folder / name, 0o600)
    start = os.open(state.folder / "start", os.O_RDWR | os.O_CLOEXEC)
    both = os.open(state.folder / "report", os.O_RDWR | os.O_CLOEXEC)
    report = os.open(state.folder / "report", os.O_WRONLY | os.O_CLOEXEC)
    os.close(both)
    opened += [start, report]
    return start, report


def _container_hooks(state: State) -> Callable[[], None] | None:
    """Runs in the child, with the host's files still in sight; a failure must come out as an OSError."""
    wanted = hooks.listed(state.bundle, "createContainer")
    if not wanted:
        return None

    def run() -> None:
        try:
            for hook in wanted:
                hooks.run_one("createContainer", hook, state.document("creating") | {"pid": os.getpid()})
        except Failure as error:
            raise OSError(125, "", str(error).encode()) from None  # ECANCELED

    return run


def _sysctls(linux: Config, spaces: dict[str, Any]) -> tuple[tuple[bytes, bytes], ...]:
    """Only sysctls of a namespace that is the container's own: others would change the host."""
    found = []
    for name, value in (linux.get("sysctl") or {}).items():
        first = name.split(".")[0]
        needs = {"net": "network", "fs": "ipc", "kernel": "ipc"}.get(first, "")
        if name in ("kernel.domainname", "kernel.hostname"):
            needs = "uts"
        owned = name.startswith(("net.", "fs.mqueue.", "kernel.msg", "kernel.sem", "kernel.shm"))
        if not (owned or needs == "uts") or needs not in spaces:
            raise BadData("cannot set the sysctl", name, "it is not of a namespace that the container has")
        found.append((os.fsencode(f"/proc/sys/{name.replace('.', '/')}"), os.fsencode(str(value))))
    return tuple(found)


def _encoded(hook: Config) -> tuple[bytes, sc.Words, sc.Words]:
    argv = [os.fsencode(word) for word in hook.get("args") or [hook["path"]]]
    env = [os.fsencode(word) for word in hook.get("env") or ()]
    return os.fsencode(hook["path"]), sc.Words(argv), sc.Words(env)


def _limit(bundle: Bundle, group: groups.Group) -> None:
    resources = bundle.part("linux", "resources")
    rules = resources.get("devices") or []
    if group.version == 1:
        group.apply(limits.device_values(rules) if group.directory("devices") else [])
    else:
        limits.filter_devices_v2(group, rules)
    group.apply(limits.values(group.version, resources))


def _brought_up(state: State, options: Options, group: groups.Group, pipes: Pipes) -> State:
    """Lead the child through its stages; the state is written when it is ready."""
    os.write(pipes.gate_write, child.GO)
    _expect(pipes.report_read, child.HOOKS, state)
    # prestart is older than the status "creating": its hooks were promised a created container.
    for name, status in (("prestart", "created"), ("createRuntime", "creating")):
        hooks.run(state.bundle, name, state.document(status) | {"pid": state.pid})
    os.write(pipes.gate_write, child.GO)
    # Memory last: what we allocate until here is not the container's (a small limit would kill it).
    if group.version == 1:
        group.add(state.pid, memory=True)
    os.write(pipes.gate_write, child.GO)
    _expect(pipes.report_read, child.READY, state)
    state.write()
    if options.pid_file:
        temp = f"{options.pid_file}.{os.getpid()}"
        Path(temp).write_text(str(state.pid))
        os.rename(temp, options.pid_file)
    return state


def _expect(report: int, wanted: bytes, state: State) -> None:
    said = os.read(report, 1)
    if said == wanted:
        return
    if said == child.FAILED:
        raise worded(os.read(report, 4096), state.bundle.config["process"])
    raise Failure("cannot create", state.id, "its process died while it was set up")


def worded(said: bytes, process: Config) -> Failure:
    """What the child reported, in words."""
    stage, number = child.REPORT.unpack_from(said)
    path = os.fsdecode(said[child.REPORT.size :])
    if stage == child.EXEC:
        return Failure("exec", f"{process['args'][0]!r}", os.strerror(number).lower())
    if stage == child.HOOK and path:
        return Failure("cannot run a hook", path, "" if number == 125 else os.strerror(number))
    return Failure(f"cannot set up the container's {child.WHERE[stage]}", path, os.strerror(number))


def put_down(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass
