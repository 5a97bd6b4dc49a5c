"""Templates by name, and machines that start from them: requests made into what vmm's templates want."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from host import paths
from host.errors import Failure, NotFound, Unsupported, Usage, WrongState
from instances import machine_wiring, names, provision
from vmm import templates
from vmm.admission import boot_timeout_s
from vmm.spec import MachineSpec, from_record, replace

if TYPE_CHECKING:
    from images.store import Image
    from instances.registry import Instance
    from instances.requests import RunRequest
    from instances.wiring import Identity
    from vmm.templates import Template


def create(name: str, request: RunRequest, pool: int = 0, for_image: bool = True) -> Template:
    """Boot a machine as the request has it, and freeze it under `name`; keep `pool` paused clones of it.

    They are also `for_image`: for runs of the image that name no template, if their hardware is the same.
    Raises InUse for a name that is taken, Unsupported for a machine that no template, or no pool, can hold.
    """
    from vmm import freeze

    names.check(name)
    image = provision.image(request.image)

    def prepare(folder: Path) -> MachineSpec:
        spec = _prepared(request, image, name, folder)
        if pool:
            _refuse_pool(name, spec)
        return spec

    return _with_pool(
        freeze.named(paths.home(), name, prepare, request.image, boot_timeout_s()), pool, for_image
    )


def keep_ready(name: str, count: int) -> None:
    """Keep so many paused clones of a template ready from now on; none ends its pool.

    Raises NotFound, Unsupported for a template of libvirt's.
    """
    from vmm import refill

    if count:
        _refuse_pool(name, from_record(dict(templates.load(paths.home(), name).spec)))
    refill.resize(paths.home(), name, count)


def _refuse_pool(name: str, spec: MachineSpec) -> None:
    if spec.driver != "qemu":
        raise Unsupported(
            "cannot keep a pool of", name, "libvirt's machines cannot be renamed", "--driver qemu"
        )


def _with_pool(template: Template, pool: int, for_image: bool = True) -> Template:
    if pool:
        from vmm import refill

        refill.keep(paths.home(), template.name, pool, for_image)
    return template


def capture(name: str, source: Instance, pool: int = 0) -> Template:
    """Freeze a machine that runs, as it is now, under `name`; it goes on. Keep `pool` paused clones.

    Raises Unsupported for a container, and for a machine that no template can hold.
    """
    from instances import kinds, registry
    from vmm import capture as running
    from vmm.machine import Machine

    names.check(name)
    if source.kind != kinds.MACHINE:
        hint = "vmm commit NAME IMAGE makes an image of a container"
        raise Unsupported("cannot freeze a container", source.name, hint=hint)
    with registry.held(source):
        machine = kinds.backend(source)
        assert isinstance(machine, Machine)
        state = machine.state()
        if state not in kinds.RUNNING or state == "paused":  # it would go on, and so would its clones
            hint = f"vmm {'resume' if state == 'paused' else 'start'} {source.name}"
            raise WrongState("cannot freeze", source.name, f"it is {state}", hint)
        return _with_pool(running.of_machine(paths.home(), name, machine, source.image), pool)


def _prepared(request: RunRequest, image: Image, name: str, folder: Path) -> MachineSpec:
    return machine_wiring.prepare(request, image, _who(name, folder))


def _who(name: str, folder: Path) -> Identity:
    from instances.wiring import Identity

    return Identity("0" * 64, name, folder, folder)


def facts(name: str) -> dict[str, float]:
    """What a template cost: seconds in all and after its boot, memory and disk that it holds (bytes).

    Raises NotFound.
    """
    found = templates.load(paths.home(), name)
    return {
        "took_s": found.took_s,
        "after_boot_s": found.after_boot_s,
        "template_bytes": found.memory.stat().st_blocks * 512.0,
        "template_disk_bytes": sum(one.stat().st_blocks * 512.0 for one in found.folder.iterdir()),
    }


def paused(name: str) -> tuple[set[str], str]:
    """The ids of the paused clones that the template has ready, and why there are fewer; raises NotFound."""
    from vmm import pool

    found = templates.load(paths.home(), name)
    return {one.id for one in pool.ready(found)}, pool.wish(found).trouble


def every() -> list[str]:
    """The names of all templates, the oldest first."""
    return [one.name for one in templates.every(paths.home())]


def remove(name: str) -> None:
    """Remove a template; raises InUse where a machine's disk is a layer over its."""
    templates.remove(paths.home(), name)


def image_of(name: str) -> str:
    """The image that a template was made of; raises NotFound, and Failure for one without a name."""
    found = templates.load(paths.home(), name)
    if not found.image:
        raise Failure(
            "cannot start from the template", name, "it belongs to `vmm run` itself", "vmm template ls"
        )
    return _as_it_was(found.image, found.image_digest)


def _as_it_was(image: str, short: str) -> str:
    """The image's name, or its digest where the name has gone or is another image's since."""
    store = provision.store()
    digests = [entry["digest"] for entry in store.entries()]
    whole = [one for one in digests if one.removeprefix("sha256:").startswith(short)]
    with contextlib.suppress(NotFound):
        if store.resolve(image).digest in whole:
            return image
    return whole[0] if whole else image


def init_of(name: str) -> tuple[str, ...]:
    """The init of a template of a whole system as a command, empty for one in command mode; NotFound."""
    init = from_record(dict(templates.load(paths.home(), name).spec)).init
    return () if init is None else (init,)


def spec_from(request: RunRequest, image: Image, who: Identity) -> MachineSpec:
    """The machine of a template under a name, with a command and ports of its own."""
    frozen = from_record(dict(templates.load(paths.home(), request.template or "").spec))
    _refuse_changes(request, frozen)
    own = machine_wiring.outline(request._replace(network=_network(frozen)), image, who)
    disk = replace(frozen.disks[0], path=str(who.folder / "disk.qcow2"))
    nics = tuple(replace(nic, forwards=own.nics[0].forwards) for nic in frozen.nics)
    return replace(
        frozen,
        name=own.name,
        uuid=own.uuid,
        hostname=own.hostname,
        command=own.command,
        disks=(disk,),
        nics=nics,
        ephemeral=request.rm,
        template=request.template or "",
        keep_identity=request.keep_identity,
    )


# What a frozen machine was born with: field -> the flag
_FIXED = {
    "machine": "--machine",
    "arch": "--arch",
    "kernel": "--kernel",
    "initrd": "--initrd",
    "append": "--append",
    "disk_bytes": "--disk",
    "disk_format": "--disk-format",
    "volumes": "-v",
    "cloud_init": "--cloud-init",
    "network_config": "--network-config",
    "ssh_user": "--ssh-user",
    "ssh_keys": "--ssh-key",
    "packages": "--package",
    "write_files": "--write-file",
    "connect": "--connect",
    "ip": "--ip",
    "tpm": "--tpm",
    "autostart": "--autostart",
}


def _refuse_command(request: RunRequest, frozen: MachineSpec) -> None:
    """Raise Usage for a command that a whole system would never run, and an init where it cannot be pid 1."""
    if not request.command:
        return
    name, program = request.template, request.command[0]
    if frozen.init is not None and program != frozen.init:
        hint = f"vmm run -d --from {name} --name NEW, then vmm exec NEW {program}"
        raise Usage("cannot run", program, f"the template {name} is a whole system, with its own init", hint)
    if frozen.init is None and program in machine_wiring.INITS:
        hint = f"vmm template create NAME IMAGE {program} freezes a whole system"
        raise Usage("cannot run", program, f"the template {name} runs one command under our init", hint)


def _refuse_changes(request: RunRequest, frozen: MachineSpec) -> None:
    """Raise Usage for what the words ask of a machine that was born otherwise."""
    from instances.requests import RunRequest as Request

    _refuse_command(request, frozen)
    what, plain = "cannot change a frozen machine", Request(image="")
    for field, flag in _FIXED.items():
        if getattr(request, field) != getattr(plain, field):
            raise Usage(
                what, flag, "it has what its template has", f"leave {flag} out, or make another template"
            )
    same = (
        ("--memory", request.memory_bytes, frozen.memory_bytes),
        ("--cpus", request.cpus, frozen.cpus),
        ("--driver", request.driver, frozen.driver),
        ("--boot", request.boot, frozen.boot),
        ("--accel", None if "auto" in (request.accel, frozen.accel) else request.accel, frozen.accel),
        ("--network", request.network, _network(frozen)),
    )
    for flag, asked, had in same:
        if asked not in (None, had):
            told = f"{frozen.memory_bytes >> 20} MiB" if flag == "--memory" else had
            raise Usage(what, flag, f"its template has {told}", f"leave {flag} out")


def _network(frozen: MachineSpec) -> str:
    return "user" if frozen.nics else "none"
