"""From a request and its image to an instance: the spec of its kind, and the files that its start needs."""

from __future__ import annotations

from host.typing import TYPE_CHECKING, Any, NamedTuple
from instances import names, registry, volumes
from instances.kinds import CONTAINER

if TYPE_CHECKING:
    from pathlib import Path

    from containers.spec import ContainerSpec
    from images.store import Image
    from instances.requests import RunRequest
    from vmm.spec import MachineSpec


class Identity(NamedTuple):
    """The instance to be: its id, its name, and the folders that it gets."""

    id: str
    name: str
    folder: Path
    run: Path


def identity_of(identity: str, name: str) -> Identity:
    """The Identity of an id and a name."""
    return Identity(identity, name, registry.folder_of(name), registry.run_of(name))


def make(request: RunRequest, image: Image, who: Identity) -> registry.Instance:
    """The instance, with every file that its start needs; the caller holds its claim and saves the record."""
    request = _with_own_volumes(request, image, make=True)
    for name in _named(request):
        volumes.ensure(name)
    if request.kind == CONTAINER:
        instance = _instance(request, image, who, _container(request, image, who))
        if instance.volumes:
            from instances import filling

            filling.fill(instance)
        return instance
    from instances import machine_wiring

    spec = _from_template(request, image, who) or machine_wiring.prepare(request, image, who)
    if not spec.command_mode:
        from vmm import ssh, templates

        lent = templates.login_key(spec.template) if spec.keep_identity else None
        ssh.make_key(who.folder, who.name, lent)
    return _instance(request, image, who, spec)


def outline(request: RunRequest, image: Image) -> registry.Instance:
    """The instance as `make` would have it, for `--dry-run`: nothing is made."""
    who = identity_of("0" * 64, names.check(request.name or "NAME"))
    request = _with_own_volumes(request, image, make=False)
    if request.kind == CONTAINER:
        spec: ContainerSpec | MachineSpec = _container(request, image, who)
    else:
        from instances import machine_wiring

        spec = _from_template(request, image, who) or machine_wiring.outline(request, image, who)
    return _instance(request, image, who, spec)


def _with_own_volumes(request: RunRequest, image: Image, make: bool) -> RunRequest:
    plain = not (image.config.volumes or request.volumes_from) and all(one.source for one in request.volumes)
    if request.kind != CONTAINER or plain:
        return request
    from instances import filling

    return filling.with_anonymous_volumes(request, image.config, make)


def _from_template(request: RunRequest, image: Image, who: Identity) -> MachineSpec | None:
    if not request.template:
        return None
    from instances import frozen

    return frozen.spec_from(request, image, who)


def _container(request: RunRequest, image: Image, who: Identity) -> ContainerSpec:
    from instances import provision
    from instances.container_wiring import container_spec

    return container_spec(request, image, provision.lower_dirs(image), who.name, who.id)


def _command(spec: Any) -> tuple[str, ...]:
    return tuple(spec.argv if hasattr(spec, "argv") else spec.command.argv)


def _named(request: RunRequest) -> tuple[str, ...]:
    return tuple(volume.source for volume in request.volumes if not volume.source.startswith("/"))


def _instance(request: RunRequest, image: Image, who: Identity, spec: Any) -> registry.Instance:
    return registry.Instance(
        id=who.id,
        name=who.name,
        kind=request.kind,
        image=request.image,
        image_digest=image.digest,
        created_unix_s=registry.now_unix_s(),
        rm=request.rm,
        command=_command(spec),
        labels={**image.config.labels, **dict(request.labels)},
        volumes=_named(request),
        spec=spec.to_record(),
        folder=who.folder,
        run=who.run,
    )
