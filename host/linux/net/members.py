"""Members come and go: attach, detach, publish, unpublish. The one place that ties leases, links and rules
together.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from host.errors import Failure, InUse, NotFound, Usage
from host.linux.net import addresses, names, netlink, networks, nftables, ports
from host.linux.net.inside import inside
from host.linux.net.leases import Lease
from host.linux.net.netlink import Netlink, NetlinkFailed
from host.linux.net.networks import Network
from host.linux.net.ports import Port

_HOSTNAME = re.compile(r"[a-zA-Z0-9_]([a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9_])?")


def attach(
    home: Path,
    network_name: str,
    member: str,
    netns_fd: int,
    *,
    interface: str = "eth0",
    ip: str = "",
    mac: str = "",
    aliases: Sequence[str] = (),
    ports: Sequence[Port] = (),
) -> Lease:
    """Put a member's network namespace on a network: link, address, route, loopback, name and published
    ports.

    All or nothing. Raises NotFound (no such network), InUse (address, name or port), Usage, NetlinkFailed.
    """
    with networks.joining(home, network_name) as network:
        lease = claim(network, member, "veth", interface, ip, mac, aliases)
        try:
            _wire(network, lease, netns_fd)
            network.leases.name(lease)
            return publish_on(network, lease, ports)
        except BaseException:
            release(network, lease, unlink=True)
            raise


def claim(
    network: Network,
    member: str,
    kind: str,
    interface: str,
    ip: str,
    mac: str,
    aliases: Sequence[str],
    link: str = "",
) -> Lease:
    """Bring the network up if need be, choose an address, and write the lease; the caller holds the lock."""
    for name in (member, *aliases):
        if not _HOSTNAME.fullmatch(name):
            raise Usage("cannot name a member of a network", repr(name), "letters, digits and _.- only")
    if not networks.is_up(network):
        networks.bring_up(network)
    leases = network.leases
    before = leases.of(member)
    if before:
        if before.alive():
            raise InUse("cannot join the network", network.name, f"{member} is on it already, as {before.ip}")
        release(network, before)
    at = _choose(network, member, ip)
    link = link or f"v{os.urandom(6).hex()}"
    dns = network.gateway if names.running(network.folder) else ""
    mac = addresses.parse_mac(mac).hex(":") if mac else addresses.mac_for(addresses.parse(at))
    place = (
        at,
        network.subnet.prefix,
        network.gateway,
        mac,
        network.bridge,
        link,
        interface,
        dns,
        tuple(aliases),
    )
    lease = Lease(network.name, member, kind, *place)
    leases.claim(lease)
    return lease


def _choose(network: Network, member: str, wanted: str) -> str:
    wanted = wanted or network.reserved.get(member, "")
    leases = network.leases
    if not wanted:
        taken = {addresses.parse(ip) for ip in leases.taken()}
        taken |= {addresses.parse(ip) for other, ip in network.reserved.items() if other != member}
        if len(taken) >= network.subnet.size - 3:
            sweep(network)
            taken = {addresses.parse(ip) for ip in leases.taken()}
        return addresses.told(addresses.choose(network.subnet, member, taken))
    if not network.subnet.holds(addresses.parse(wanted)):
        raise Usage("cannot give the address", wanted, f"no member's place in {network.subnet}")
    holder = leases.at(wanted)
    if holder and holder.alive():
        raise InUse("cannot give the address", wanted, f"{holder.member} has it")
    if holder:
        release(network, holder)
    return wanted


def _wire(network: Network, lease: Lease, netns_fd: int) -> None:
    """Create the veth with its far end in the namespace, and set that end up from inside."""
    with inside(netns_fd) as inner:
        with Netlink() as outer:
            master = netlink.index_of(network.bridge)
            mac = addresses.parse_mac(lease.mac)
            outer.send([netlink.veth(lease.link, lease.interface, netns_fd, master, mac)])
        link = netlink.find(inner, lease.interface)
        if link is None:
            raise NotFound("cannot find the interface", lease.interface, "it vanished with its namespace")
        requests = [
            netlink.up(1, "lo"),
            netlink.address(link.number, addresses.parse(lease.ip), lease.prefix),
        ]
        requests.append(netlink.up(link.number, lease.interface))
        if lease.interface == "eth0":
            requests.append(netlink.default_route(link.number, network.subnet.gateway))
        inner.send(requests)


def detach(home: Path, network_name: str, member: str, unlink: bool = False) -> None:
    """Take a member off a network; nothing to do where it is not on it.

    The veth goes with its namespace, by the kernel, later; `unlink` deletes it now, 20 ms, for a member
    that lives.
    """
    try:
        network = networks.load(home, network_name)
    except NotFound:
        return
    if not network.folder.is_dir():
        return
    with networks.held(network):
        lease = network.leases.of(member)
        if lease:
            release(network, lease, unlink)


def release(network: Network, lease: Lease, unlink: bool = False) -> None:
    """Undo a lease, whichever of its steps were done; the caller holds the lock."""
    withdraw(lease, lease.ports)
    index = netlink.index_of(lease.link) if unlink else 0
    if index:
        try:
            with Netlink() as socket:
                socket.send([netlink.delete(index, lease.link)])
        except NetlinkFailed as error:
            if error.number != errno.ENODEV:
                raise
    network.leases.forget(lease)


def withdraw(lease: Lease, gone: Iterable[Port]) -> None:
    """Remove the elements of ports, unless they carry somebody else's connections by now."""
    ours = [ports.element(port, addresses.parse(lease.ip)) for port in gone]
    standing = [(one, nftables.find(one)) for one in ours]
    nftables.remove(one for one, there in standing if there and there.data == one.data)


def leases_of(home: Path, member: str) -> tuple[Lease, ...]:
    """The leases of a member on all networks."""
    found = (network.leases.of(member) for network in networks.listing(home))
    return tuple(lease for lease in found if lease)


def detach_all(home: Path, member: str) -> None:
    """Take a member off every network."""
    for lease in leases_of(home, member):
        detach(home, lease.network, member)


def publish(home: Path, network_name: str, member: str, ports: Sequence[Port]) -> Lease:
    """Publish more ports of a member that is on a network; all or none.

    Raises InUse where a port belongs to another instance or a program of the host, NotFound where no such
    member is.
    """
    network, lease = _found(home, network_name, member)
    with networks.held(network):
        return publish_on(network, network.leases.of(member) or lease, ports)


def unpublish(home: Path, network_name: str, member: str, ports: Sequence[Port]) -> Lease:
    """Take published ports back; those that were not published are no error."""
    network, lease = _found(home, network_name, member)
    with networks.held(network):
        lease = network.leases.of(member) or lease
        withdraw(lease, [port for port in ports if port in lease.ports])
        lease = lease.with_ports(port for port in lease.ports if port not in ports)
        network.leases.write(lease)
        return lease


def _found(home: Path, network_name: str, member: str) -> tuple[Network, Lease]:
    network = networks.load(home, network_name)
    lease = network.leases.of(member)
    if lease is None or not lease.alive():
        raise NotFound("cannot find", repr(member), f"it is not on the network {network_name}")
    return network, lease


def publish_on(network: Network, lease: Lease, wanted: Sequence[Port]) -> Lease:
    """Record first, then the rules: a record too much is harmless, a rule without a record would stay for
    ever.
    """
    if not wanted:
        return lease
    chosen: list[Port] = []
    for port in wanted:
        chosen.append(_free_port(network.home, port, chosen))
    grown = lease.with_ports((*lease.ports, *chosen))
    network.leases.write(grown)
    try:
        nftables.add(ports.element(port, addresses.parse(lease.ip)) for port in chosen)
    except BaseException as error:
        network.leases.write(lease)
        if isinstance(error, NetlinkFailed) and error.number in (errno.EEXIST, errno.EBUSY):
            raise InUse("cannot publish the ports", ", ".join(map(str, chosen)), "one is taken") from None
        raise
    return grown


def _free_port(home: Path, port: Port, chosen: Sequence[Port], tries: int = 50) -> Port:
    """The port, its number chosen if it is 0, when neither the host nor an instance has it; InUse
    otherwise.
    """
    for _ in range(tries):
        free = ports.probed(port)
        standing = nftables.find(ports.element(free, 0))
        if standing is None and not any(free[:2] == one[:2] and free[3] == one[3] for one in chosen):
            return free
        if port.host:
            if standing and _reclaimed(home, standing):
                continue
            raise InUse("cannot publish the port", str(free), _holder(home, standing), "choose another")
    raise Failure("cannot choose a port", str(port), f"{tries} that the kernel offered were taken")


def _holder(home: Path, standing: nftables.Element | None) -> str:
    if standing is None:
        return "it is asked for twice"
    ip = addresses.told(ports.target(standing))
    for network in networks.listing(home):
        lease = network.leases.at(ip)
        if lease:
            return f"{lease.member} has it"
    return f"{ip} has it"


def _reclaimed(home: Path, standing: nftables.Element) -> bool:
    """Whether the holder of a port was dead and nobody had noticed: its rule is removed, its lease stays
    for sweep.
    """
    ip = addresses.told(ports.target(standing))
    for network in networks.listing(home):
        if network.subnet.holds(ports.target(standing)):
            lease = network.leases.at(ip)
            if lease is None or not lease.alive():
                nftables.remove([standing])
                return True
    return False


def sweep(network: Network) -> list[str]:
    """Release the leases whose members are dead, and rules that point to nobody; tell what went."""
    gone = []
    for ip in sorted(network.leases.taken()):
        lease = network.leases.at(ip)
        if lease and not _owned(network, lease):
            release(network, lease)
            gone.append(f"lease of {lease.member} ({ip}) on {network.name}")
    held = {addresses.parse(ip) for ip in network.leases.taken()}
    for name in ("ports", "ports_any"):
        stray = [one for one in nftables.elements(name) if network.subnet.holds(ports.target(one))]
        stray = [one for one in stray if ports.target(one) not in held]
        nftables.remove(stray)
        gone += [f"published port to {addresses.told(ports.target(one))}" for one in stray]
    return gone


def _owned(network: Network, lease: Lease) -> bool:
    """Whether somebody still holds the lease: a reserved one belongs to the instance of that name."""
    if lease.kind == "reserved":
        return (network.home / "instances" / lease.member).is_dir()
    return lease.alive()
