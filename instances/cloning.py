"""An instance out of another one: a machine while it runs, or standing still."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from host.errors import Unsupported, WrongState
from instances import events, kinds, names, registry

if TYPE_CHECKING:
    from instances.registry import Instance
    from vmm.machine import Machine


def clone(source: Instance, name: str, live: bool, full: bool = False) -> tuple[Instance, float]:
    """The new instance, and for how many seconds its source stood still (live).

    It stands on the same image as its source, with a copy of what that has written; `full` copies all, so
    that it stands on nothing. Raises Unsupported for a container, WrongState where the source is not in the
    state that was asked for.
    """
    if source.kind != kinds.MACHINE:
        hint = "vmm commit NAME IMAGE, then vmm run --ct IMAGE"
        raise Unsupported("cannot clone a container", source.name, hint=hint)
    from vmm import cloned
    from vmm import live as running
    from vmm.spec import from_record

    spec = from_record(source.spec)
    with registry.held(source), registry.claim(name) as (identity, name, folder):
        machine = kinds.backend(source)
        _check_state(source.name, machine.state(), live)
        made = running.spec_of(spec, name, names.uuid_of(identity), folder)
        if live:
            away_s = running.clone(cast("Machine", machine), folder, registry.run_of(name), made)
        else:
            away_s = 0.0
            made = cloned.new_identity(made, folder)
            cloned.copy_files(spec, made, full)
        new = source._replace(
            id=identity,
            name=name,
            created_unix_s=registry.now_unix_s(),
            rm=False,
            spec=made.to_record(),
            folder=folder,
            run=registry.run_of(name),
        )
        registry.save(new)
        if live:
            from vmm import bringup

            bringup.note_address(cast("Machine", kinds.backend(new)))
        events.happened("cloned", name, new.kind, of=source.name)
        return new, away_s


def _check_state(name: str, state: str, live: bool) -> None:
    runs = state in kinds.RUNNING
    if live and state == "paused":
        raise WrongState("cannot clone", name, "it is paused, and both would go on", f"vmm resume {name}")
    if runs != live:
        hint = "--live clones a running machine" if runs else "leave --live out"
        raise WrongState("cannot clone", name, f"it is {state}", hint)
