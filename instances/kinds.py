"""What instances ask of a backend, and which one a kind has: a Protocol, and no base class."""

from __future__ import annotations

from host.errors import Unsupported
from host.typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from host.edges import Edges
    from host.stdio import Stdio
    from instances.registry import Instance

CONTAINER, MACHINE = "ct", "vm"
WORDS = {CONTAINER: "container", MACHINE: "machine"}
RUNNING = frozenset({"running", "paused", "booting", "ssh-ready", "cloud-init-done", "unresponsive"})
RESTARTING = "restarting"  # it ended, and starts again by itself after a pause
ENDED = frozenset({"exited", RESTARTING})


class Backend(Protocol):
    """One instance of either kind, as the commands see it."""

    def run(self, stdio: Stdio, edges: Edges) -> int: ...
    def start(self, edges: Edges) -> None: ...
    def stop(self, time_s: float) -> str | None: ...
    def kill(self, signal: int) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def wait(self, timeout_s: float | None) -> int: ...
    def state(self) -> str: ...
    def status(self) -> int | None: ...
    def exec(self, request: Any, stdio: Stdio) -> int: ...
    def logs(self, follow: bool, tail: int | None, timestamps: bool, out_fd: int) -> None: ...
    def inspect(self) -> dict[str, Any]: ...
    def explain(self) -> str: ...
    def plan(self) -> str: ...
    def remove(self) -> None: ...


def backend(instance: Instance) -> Backend:
    """The backend of an instance; its room is imported only now."""
    if instance.kind == CONTAINER:
        from containers.container import Container
        from containers.spec import ContainerSpec

        return Container(instance.folder, instance.run, ContainerSpec.from_record(instance.spec))
    if instance.kind == MACHINE:
        from vmm import spec
        from vmm.machine import Machine

        return Machine(instance.folder, instance.run, spec.from_record(instance.spec))
    raise Unsupported("cannot use", instance.name, f"its kind {instance.kind!r} is unknown to this vmm")


def optional(instance: Instance, ability: str) -> Any:
    """A word that not every kind knows (stats, top, cp ...); raises Unsupported where this one does not."""
    found = getattr(backend(instance), ability, None)
    if found is None:
        raise Unsupported(f"cannot {ability}", instance.name, f"a {WORDS[instance.kind]} has no {ability}")
    return found
