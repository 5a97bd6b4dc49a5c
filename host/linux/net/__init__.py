"""What the host lends of its network: bridges with NAT, leases, names, published ports, TAPs, and slirp for
users.

    attach(home, network, member, netns_fd, ...)    a container's namespace joins       -> Lease
    tap(home, network, member, ...)                 a machine joins: a TAP for QEMU     -> Tap(fd, lease)
    reserve(home, network, member, ...)             a machine whose TAP libvirt makes   -> Lease
    detach(home, network, member), detach_all       leave; idempotent, on every path
    publish, unpublish(home, network, member, ports)    live
    leases_of(home, member)    loopback_up(netns_fd)    parse_ports("8080:80/udp")    repair(home)
    slirp, unslirp                                  rootless: slirp4netns

A member is an instance's name. The network "bridge" makes itself on first use; others are created by
`networks.create` (`vmm network create`). IPv4 only. Every call takes the network's lock, so commands may
run at once; what a killed command left (a lease without its link) is taken over by the next one that needs
it, or by `repair`.

Known limits, told here once. A published port shadows a program of the host that begins to listen on it
later. A member of several networks asks the first one's name server only. `net.ipv4.ip_forward` is switched
on and stays on.
"""

from __future__ import annotations

from host.typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from host.linux.net.inside import loopback_up as loopback_up
    from host.linux.net.leases import Lease as Lease
    from host.linux.net.members import attach as attach
    from host.linux.net.members import detach as detach
    from host.linux.net.members import detach_all as detach_all
    from host.linux.net.members import leases_of as leases_of
    from host.linux.net.members import publish as publish
    from host.linux.net.members import unpublish as unpublish
    from host.linux.net.ports import Port as Port
    from host.linux.net.ports import parse_ports as parse_ports
    from host.linux.net.repairs import repair as repair
    from host.linux.net.rootless import slirp as slirp
    from host.linux.net.rootless import unslirp as unslirp
    from host.linux.net.taps import Tap as Tap
    from host.linux.net.taps import reserve as reserve
    from host.linux.net.taps import tap as tap
    from host.linux.net.telling import by_hand as by_hand

_WHERE = {
    "Lease": "leases",
    "by_hand": "telling",
    "loopback_up": "inside",
    "Port": "ports",
    "parse_ports": "ports",
    "repair": "repairs",
    "slirp": "rootless",
    "unslirp": "rootless",
    "Tap": "taps",
    "reserve": "taps",
    "tap": "taps",
}
_MEMBERS = ("attach", "detach", "detach_all", "leases_of", "publish", "unpublish")
_WHERE |= dict.fromkeys(_MEMBERS, "members")


def __getattr__(name: str) -> Any:
    """Load a part when it is first asked for: `--network none` shall not pay for DHCP."""
    import importlib

    if name not in _WHERE:
        raise AttributeError(name)
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
