"""What `vmm run` and its kin do, for both kinds: what cli and bench.targets call."""

from __future__ import annotations

import contextlib
import os
import sys

from host.edges import Edges
from host.errors import DeadlinePassed, Failure, InUse, Unsupported, Usage, WrongState
from host.exec_request import ExecRequest
from host.stdio import Stdio
from host.typing import TYPE_CHECKING, Any, NamedTuple
from instances import events, kinds, names, registry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from instances.registry import Instance
    from instances.requests import Port, RunRequest


DETACH_KEYS = b"\x10\x11"  # ctrl-p ctrl-q


def plan(request: RunRequest) -> str:
    """The plan of the instance as text; makes nothing and asks neither for root nor for KVM."""
    from instances import provision, wiring

    image = provision.image_or_outline(request.image, request.arch)
    return kinds.backend(wiring.outline(request, image)).plan()


def run(request: RunRequest, stdio: Stdio, edges: Edges) -> int:
    """Make the instance and see its command through to its end; its exit status.

    With `rm` nothing is left; a start that failed leaves nothing either.
    """
    with _in_turn(request, edges), _made(request, edges) as instance:
        backend = kinds.backend(instance)
        with _unmade_on_failure(instance, backend):
            if _is_a_persons_terminal(stdio) and instance.kind == kinds.CONTAINER:
                status = _through_terminal(backend, stdio, edges, request.detach_keys)
            else:
                status = backend.run(stdio, edges)
        if backend.state() in kinds.RUNNING:
            sys.stderr.write(f"\nvmm: {instance.name} goes on; vmm attach {instance.name} comes back to it\n")
            return 0
        events.happened("exited", instance.name, instance.kind, status=status)
        if instance.rm:
            _discard(instance, backend)
        edges.mark("t9")
        return status


def _is_a_persons_terminal(stdio: Stdio) -> bool:
    return stdio.tty and stdio.interactive and os.isatty(stdio.stdin)


def _through_terminal(backend: Any, stdio: Stdio, edges: Edges, detach_keys: bytes) -> int:
    """Start it detached and join its terminal: so that its user can leave it alone and come back."""
    backend.start(edges)
    status: int = backend.attach(stdio, detach_keys or DETACH_KEYS, whole=True)
    return status


def run_detached(request: RunRequest, edges: Edges) -> Instance:
    """Make the instance and start it; returns when it runs."""
    with _in_turn(request, edges), _made(request, edges) as instance:
        backend = kinds.backend(instance)
        with _unmade_on_failure(instance, backend):
            backend.start(edges)
        events.happened("started", instance.name, instance.kind)
        return instance


def create(request: RunRequest, edges: Edges | None = None) -> Instance:
    """Make the instance without starting it."""
    with _made(request, edges or Edges()) as instance:
        return instance


@contextlib.contextmanager
def _in_turn(request: RunRequest, edges: Edges) -> Iterator[None]:
    """Its place among the machines that come up, from the beginning; a container waits for nobody."""
    edges.mark("t0")
    if request.kind == kinds.CONTAINER:
        yield
        return
    from host import paths
    from vmm import admission

    admission.queue(paths.run_dir())
    try:
        yield
    finally:
        admission.let_go()


@contextlib.contextmanager
def _made(request: RunRequest, edges: Edges) -> Iterator[Instance]:
    """A new instance on disk, owned by this command as long as the context lasts."""
    from instances import provision, wiring

    edges.mark("t0")
    if request.name is not None:
        _refuse_taken(request.name)
    image = provision.image(request.image, request.arch)
    with contextlib.ExitStack() as owned:
        with registry.claim(request.name) as (identity, name, folder):
            instance = wiring.make(request, image, wiring.identity_of(identity, name))
            # An instance that goes with its command need not outlive a crash of the host: no fsync.
            registry.save(instance, durable=not request.rm)
            owned.enter_context(registry.owned(folder))
        edges.mark("t1")
        events.happened("created", instance.name, instance.kind, image=instance.image)
        yield instance


def _refuse_taken(name: str) -> None:
    """Say it before an image is made for minutes; `claim` is what decides."""
    from instances import repair

    folder = registry.folder_of(names.check(name))
    if (folder / registry.RECORD).exists() and not repair.sweep_one(folder):
        hint = f"vmm rm {name} removes it; or choose another name"
        raise InUse("cannot take the name", repr(name), "an instance has it", hint)


@contextlib.contextmanager
def _unmade_on_failure(instance: Instance, backend: kinds.Backend) -> Iterator[None]:
    try:
        yield
    except BaseException:
        # What went wrong first is what the user hears; what cannot be undone now is left to the next sweep.
        with contextlib.suppress(Failure):
            if _state(backend) in kinds.RUNNING:
                backend.stop(0)
            _discard(instance, backend)
        raise


def _discard(instance: Instance, backend: kinds.Backend) -> None:
    """Remove what this command made; another command may have been faster, and that is as good."""
    with contextlib.suppress(FileNotFoundError):
        backend.remove()
    registry.remove_folder(instance.folder)
    _drop_anonymous(instance)
    events.happened("removed", instance.name, instance.kind)


def _drop_anonymous(instance: Instance) -> None:
    if instance.volumes:
        from instances import volumes

        volumes.remove_anonymous(instance)


def start(instance: Instance, edges: Edges | None = None) -> None:
    """Start an instance that stands still; raises WrongState when it runs already."""
    with registry.held(instance):
        backend = kinds.backend(instance)
        if backend.state() in kinds.RUNNING:
            raise WrongState("cannot start", instance.name, f"it is {backend.state()} already")
        backend.start(edges or Edges())
        events.happened("started", instance.name, instance.kind)


def stop(instance: Instance, time_s: float) -> str:
    """Ask it to end, and make it after `time_s` seconds; what stands still already is left so.

    Returns why it had to be made to, or nothing when it ended by itself.
    """
    with registry.held(instance, wait_s=time_s + 30):
        backend = kinds.backend(instance)
        if backend.state() not in kinds.RUNNING:
            if (stay_down := getattr(backend, "stay_down", None)) is not None:
                stay_down()
            return ""
        forced = backend.stop(time_s) or ""
        events.happened("stopped", instance.name, instance.kind)
        return forced


def restart(instance: Instance, time_s: float) -> None:
    """Stop, then start."""
    with registry.held(instance, wait_s=time_s + 30):
        backend = kinds.backend(instance)
        if backend.state() in kinds.RUNNING:
            backend.stop(time_s)
        backend.start(Edges())
        events.happened("restarted", instance.name, instance.kind)


def start_attached(instance: Instance, stdio: Stdio) -> int:
    """Start an instance in the foreground; the status of its command."""
    with registry.held(instance):
        backend = kinds.backend(instance)
        _must_run(backend, instance, "start", running=False)
        owner = registry.owned(instance.folder)
        owner.__enter__()
    try:
        return backend.run(stdio, Edges())
    finally:
        owner.__exit__(None, None, None)


def kill(instance: Instance, signal: int) -> None:
    """Send a signal to the command; a machine knows KILL and what its driver can pass on."""
    backend = kinds.backend(instance)
    _must_run(backend, instance, "signal")
    backend.kill(signal)
    events.happened("killed", instance.name, instance.kind, signal=signal)


def pause(instance: Instance) -> None:
    """Freeze it."""
    with registry.held(instance):
        backend = kinds.backend(instance)
        _must_run(backend, instance, "pause")
        backend.pause()
        events.happened("paused", instance.name, instance.kind)


def resume(instance: Instance) -> None:
    """Let it go on; raises WrongState when it is not paused."""
    with registry.held(instance):
        backend = kinds.backend(instance)
        if (state := backend.state()) != "paused":
            raise WrongState("cannot resume", instance.name, f"it is {state}, not paused")
        backend.resume()
        events.happened("resumed", instance.name, instance.kind)


def _must_run(backend: kinds.Backend, instance: Instance, what: str, running: bool = True) -> str:
    state = backend.state()
    if (state in kinds.RUNNING) != running:
        hint = f"vmm start {instance.name}" if running else ""
        if state == kinds.RESTARTING:
            hint = f"vmm logs {instance.name} tells why it ends, vmm stop {instance.name} ends the restarts"
        raise WrongState(f"cannot {what}", instance.name, f"it is {state}", hint)
    return state


def _must_go_on(backend: kinds.Backend, instance: Instance, what: str) -> None:
    if _must_run(backend, instance, what) == "paused":
        raise WrongState(f"cannot {what}", instance.name, "it is paused", f"vmm resume {instance.name}")


def wait_for(instance: Instance, condition: str, timeout_s: float | None) -> None:
    """Wait until the instance is in that state or past it; raises DeadlinePassed with what was last seen."""
    import time

    backend = kinds.backend(instance)
    able = getattr(backend, "wait_for", None)
    if able is not None:
        able(condition, timeout_s)
        return
    goals = {"running": kinds.RUNNING, "healthy": {"healthy"}}.get(condition)
    if goals is None:
        raise Usage("cannot wait for", repr(condition), f"a {kinds.WORDS[instance.kind]} has no such state")
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while (seen := _seen(backend, condition)) not in goals:
        if deadline is not None and time.monotonic() >= deadline:
            raise DeadlinePassed(
                f"{instance.name} is not {condition}", why=f"after {timeout_s:g} s it is {seen}"
            )
        time.sleep(0.05)


def _seen(backend: kinds.Backend, condition: str) -> str:
    if condition == "healthy":
        health = backend.inspect().get("health") or {"status": "without a health check"}
        return str(health["status"])
    return backend.state()


def remove(instance: Instance, force: bool = False) -> None:
    """Remove an instance and all that is its own; `force` ends it first. Raises WrongState while it runs."""
    with registry.held(instance):
        backend = kinds.backend(instance)
        state = _state(backend)
        if state in kinds.RUNNING:
            if not force:
                hint = f"vmm stop {instance.name} first, or rm -f"
                raise WrongState("cannot remove", instance.name, f"it is {state}", hint)
            _end(backend)
        backend.remove()
        registry.remove_folder(instance.folder)
        if instance.rm:
            _drop_anonymous(instance)
        events.happened("removed", instance.name, instance.kind)


def _end(backend: kinds.Backend) -> None:
    with contextlib.suppress(WrongState):  # it ended between our look and our kill
        backend.stop(0)


def _state(backend: kinds.Backend) -> str:
    try:
        return backend.state()
    except Failure:
        return "unknown"


def rename(instance: Instance, name: str) -> None:
    """Give an instance that stands still another name."""
    names.check(name)
    with registry.held(instance):
        state = kinds.backend(instance).state()
        if state in kinds.RUNNING or state == kinds.RESTARTING:
            # Sockets, cgroup and DNS carry the name: moving them under a running instance would cut it off.
            hint = f"vmm stop {instance.name} first"
            raise WrongState("cannot rename", instance.name, f"it is {state}", hint)
        registry.move(instance, name)
        events.happened("renamed", name, instance.kind, was=instance.name)


def execute(instance: Instance, request: ExecRequest, stdio: Stdio) -> int:
    """Run one more command in a running instance; its own status."""
    backend = kinds.backend(instance)
    _must_go_on(backend, instance, "run a command in")
    return backend.exec(_as_inside(instance, request), stdio)


def execute_detached(instance: Instance, request: ExecRequest) -> int:
    """Run one more command in a running instance and come back at once."""
    backend = kinds.backend(instance)
    _must_go_on(backend, instance, "run a command in")
    request = _as_inside(instance, request)._replace(tty=False, interactive=False)
    return kinds.optional(instance, "exec_detached")(request) or 0


def _as_inside(instance: Instance, request: ExecRequest) -> ExecRequest:
    """The request with the instance's own variables, user and folder where it names none."""
    own = instance.spec.get("command") if instance.kind == kinds.MACHINE else instance.spec
    own = own or {}
    words = {word.partition("=")[0]: word for word in (*own.get("env", ()), *request.env)}
    return request._replace(
        env=tuple(words.values()),
        cwd=request.cwd or own.get("cwd", "") or "/",
        user=request.user or own.get("user", ""),
    )


_SHELLS = "command -v bash >/dev/null 2>&1 && exec bash -l; exec sh -l"


def shell(instance: Instance, user: str, stdio: Stdio) -> int:
    """The best shell that the image has, as a login shell."""
    env = (f"TERM={os.environ.get('TERM', 'xterm')}",)
    wanted = ExecRequest(("sh", "-c", _SHELLS), env=env, user=user, tty=stdio.tty, interactive=True)
    return execute(instance, wanted, stdio)


def attach(instance: Instance, stdio: Stdio, detach_keys: bytes) -> int:
    """Join the command's own terminal; its status when it ends, 0 after the detach keys."""
    _must_run(kinds.backend(instance), instance, "attach to")
    status: int = kinds.optional(instance, "attach")(stdio, detach_keys)
    return status


def ports(instance: Instance) -> list[Port]:
    """The published ports; those that the kernel chose are told by the running instance."""
    told = getattr(kinds.backend(instance), "ports", None)
    found = told() if told is not None else instance.spec.get("ports", [])
    from instances.requests import Port

    return [Port(host_port, inside, protocol, host_ip) for host_ip, host_port, inside, protocol in found]


def update(instance: Instance, changes: dict[str, Any]) -> bool:
    """Other limits (memory_bytes, cpus ...) or restart policy, kept in the record; whether in force already.

    Raises Unsupported for what the kind has not, or cannot change while it runs.
    """
    with registry.held(instance):
        backend = kinds.backend(instance)
        running = backend.state() in kinds.RUNNING
        live = changes
        if instance.kind == kinds.CONTAINER:
            from instances import container_wiring

            spec, live = container_wiring.updated(instance.spec, changes)
        elif foreign := set(changes) - {"memory_bytes", "cpus"}:
            hint = "--memory and --cpus are what a machine has"
            raise Unsupported(f"cannot update {foreign.pop()}", instance.name, "it is a machine", hint)
        else:
            spec = {**instance.spec, **changes}
        if running and live:
            kinds.optional(instance, "update")(**live)
        registry.save(instance._replace(spec=spec))
        events.happened("updated", instance.name, instance.kind, **changes)
        return running


# QEMU greets one client at a time: asking more at once would keep another list waiting too long.
_ASKED_AT_ONCE = 16


class Row(NamedTuple):
    """One instance as lists show it; `status` is the exit status, None where nobody saw one."""

    instance: Instance
    state: str
    status: int | None
    trouble: str = ""


def listing() -> list[Row]:
    """Every instance with its derived state; what killed commands left is removed first."""
    from instances import repair

    found, bare = registry.scan()
    if repair.sweep_these(found, bare):
        found = registry.every()
    some = [found[first : first + _ASKED_AT_ONCE] for first in range(0, len(found), _ASKED_AT_ONCE)]
    return [one for few in some for one in _rows(few)]


def _rows(few: list[Instance]) -> list[Row]:
    """All are asked before the first answer is read: a QEMU that was asleep takes a millisecond."""
    asked = [_asked(instance) for instance in few]
    return [row(instance, backend) for instance, backend in zip(few, asked, strict=True)]


def _asked(instance: Instance) -> kinds.Backend | None:
    try:
        backend = kinds.backend(instance)
    except Failure:
        return None  # its row says so
    if ask := getattr(backend, "ask", None):
        ask()
    return backend


def row(instance: Instance, backend: kinds.Backend | None = None) -> Row:
    """One instance with its derived state; one that cannot say is `unknown`, with its trouble."""
    try:
        backend = backend or kinds.backend(instance)
        state = backend.state()
        return Row(instance, state, backend.status() if state in kinds.ENDED else None)
    except Failure as error:
        return Row(instance, "unknown", None, str(error))
