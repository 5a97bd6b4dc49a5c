"""Published ports of an instance that runs: added and taken back live, and kept in its record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from host import paths
from host.errors import NotFound, WrongState
from instances import kinds, registry
from instances.registry import Instance

if TYPE_CHECKING:
    from host.linux.net import Port


def publish(instance: Instance, wanted: Sequence[Port]) -> None:
    """Publish more ports, at once where the instance runs, and at each later start.

    Raises InUse for a port that is taken, WrongState for an instance without an address.
    """
    with registry.held(instance):
        if instance.kind == kinds.CONTAINER:
            _publish_container(instance, wanted)
        else:
            _change_machine(instance, wanted, ())


def unpublish(instance: Instance, gone: Sequence[Port]) -> None:
    """Take published ports back; NotFound for one that is not published."""
    with registry.held(instance):
        if instance.kind == kinds.CONTAINER:
            _unpublish_container(instance, gone)
        else:
            _change_machine(instance, (), gone)


def _container(instance: Instance) -> Any:
    from containers.spec import ContainerSpec

    return ContainerSpec.from_record(instance.spec)


def _publish_container(instance: Instance, wanted: Sequence[Port]) -> None:
    from containers import networking

    spec = _container(instance)
    if kinds.optional(instance, "pid")() is not None:
        wanted = networking.publish(paths.home(), instance.folder, instance.run, spec, wanted)
    _save_container(instance, [*spec.ports, *wanted])


def _unpublish_container(instance: Instance, gone: Sequence[Port]) -> None:
    from containers import networking
    from host.linux.net import Port

    spec = _container(instance)
    running = kinds.optional(instance, "pid")() is not None
    known = kinds.optional(instance, "ports")() if running else spec.ports
    found = _matching([Port(*one) for one in known], gone, instance.name)
    if running:
        networking.unpublish(paths.home(), instance.folder, instance.run, spec, found)
    # a port whose number was chosen at the start stands in the record as 0
    places = {(one.host_ip, host, one.guest, one.protocol) for one in found for host in (one.host, 0)}
    _save_container(instance, [one for one in spec.ports if tuple(one) not in places])


def _matching(known: Sequence[Port], gone: Sequence[Port], name: str) -> list[Port]:
    found = []
    for one in gone:
        match = [port for port in known if port[2:] == one[2:] and one.host in (0, port.host)]
        if not match:
            raise NotFound("no published port", str(one), hint=f"vmm port {name} lists them")
        found += match
    return found


def _save_container(instance: Instance, ports: Sequence[Sequence[Any]]) -> None:
    registry.save(instance._replace(spec={**instance.spec, "ports": [list(one) for one in ports]}))


def _change_machine(instance: Instance, wanted: Sequence[Port], gone: Sequence[Port]) -> None:
    """The first card's forwards: QEMU's own on a user network, the network's published ports on a bridge."""
    from vmm.spec import Forward, from_record, replace

    spec = from_record(instance.spec)
    if not spec.nics:
        hint = "give it a network at birth: vmm run --vm --network user ..."
        raise WrongState("cannot publish a port of", instance.name, "it has no network card", hint)
    card, backend = spec.nics[0], kinds.backend(instance)
    found = _matching([_port(one) for one in card.forwards], gone, instance.name)
    if backend.state() in kinds.RUNNING:
        if card.kind == "network":
            wanted = _on_bridge(instance.name, card.network, wanted, found)
        else:
            wanted = _on_user_network(backend, wanted, found)
    left = [one for one in card.forwards if _port(one) not in found]
    made = [
        Forward(host_ip=one.host_ip, host=one.host, guest=one.guest, protocol=one.protocol) for one in wanted
    ]
    cards = (replace(card, forwards=(*left, *made)), *spec.nics[1:])
    registry.save(instance._replace(spec=replace(spec, nics=cards).to_record()))


def _port(forward: Any) -> Port:
    from host.linux.net import Port

    return Port(forward.host_ip, forward.host, forward.guest, forward.protocol)


def _on_bridge(name: str, network: str, wanted: Sequence[Port], gone: Sequence[Port]) -> Sequence[Port]:
    from host.linux import net

    net.unpublish(paths.home(), network, name, gone)
    lease = net.publish(paths.home(), network, name, wanted)
    return lease.ports[len(lease.ports) - len(wanted) :]


def _on_user_network(backend: Any, wanted: Sequence[Port], gone: Sequence[Port]) -> Sequence[Port]:
    from host.linux.net.ports import probed
    from vmm.spec import Forward

    for one in gone:
        backend.unforward(Forward(host_ip=one.host_ip, host=one.host, guest=one.guest, protocol=one.protocol))
    chosen = [probed(one) for one in wanted]
    for one in chosen:
        backend.forward(Forward(host_ip=one.host_ip, host=one.host, guest=one.guest, protocol=one.protocol))
    return chosen
