"""Networks: a record each, and the bridge, rules and name server that bring one up.

A network comes up with its first member and stays up, as dockers' do: bringing one up costs 20 ms, a member
2 ms. `remove` takes everything away; a reboot does too, and the next member brings it up again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from host import paths, records
from host.errors import BadData, Failure, HostUnfit, InUse, NotFound, Usage
from host.linux.net import addresses, names, netlink, nftables, ports
from host.linux.net.addresses import Subnet, told
from host.linux.net.leases import Leases
from host.linux.net.netlink import Netlink, NetlinkFailed
from host.linux.net.nftables import Element, name_key
from host.typing import Any, NamedTuple

DEFAULT = "bridge"
TAKEN_WORDS = ("none", "host", "container", "default", "user")
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}")


class Network(NamedTuple):
    """A network as its record holds it; `reserved` maps member names to the addresses kept for them."""

    home: Path
    name: str
    subnet: Subnet
    bridge: str
    internal: bool = False
    created_unix_s: float = 0.0
    labels: Mapping[str, str] = MappingProxyType({})
    reserved: Mapping[str, str] = MappingProxyType({})

    @property
    def gateway(self) -> str:
        """The bridge's own address."""
        return told(self.subnet.gateway)

    @property
    def folder(self) -> Path:
        """Where leases and the name server's files live; no instance's name begins with a dot."""
        return paths.run_dir(self.home) / ".net" / self.name

    @property
    def leases(self) -> Leases:
        """The leases of this network."""
        return Leases(self.folder)

    def to_record(self) -> records.Record:
        """The network as JSON holds it."""
        return {
            "name": self.name,
            "subnet": str(self.subnet),
            "gateway": self.gateway,
            "bridge": self.bridge,
            "internal": self.internal,
            "created_unix_s": self.created_unix_s,
            "labels": dict(self.labels),
            "reserved": dict(self.reserved),
        }


def bridge_name(home: Path, name: str) -> str:
    """The bridge's device name: at most 15 bytes (IFNAMSIZ), and never the same for two homes."""
    import hashlib  # its OpenSSL costs 3 ms, and only the making of a network needs it

    return "vmm" + hashlib.sha256(f"{home}\0{name}".encode()).hexdigest()[:8]


def folder_of(home: Path, name: str) -> Path:
    """The folder of a network's record."""
    return home / "networks" / name


def check_name(name: str) -> str:
    """The name, when it can be one: Usage otherwise."""
    if not _NAME.fullmatch(name) or name in TAKEN_WORDS:
        why = (
            "it means something else after --network"
            if name in TAKEN_WORDS
            else "letters, digits and _.- only"
        )
        raise Usage("cannot name a network", repr(name), why)
    return name


def load(home: Path, name: str) -> Network:
    """The network of that name; the default one is made on demand, NotFound for any other that was not
    created.
    """
    try:
        return _from_record(home, records.read(folder_of(home, name) / "network.json"))
    except (FileNotFoundError, NotADirectoryError):
        pass
    if name == DEFAULT:
        with contextlib.suppress(InUse):
            return create(home, DEFAULT)
        return _from_record(home, records.read(folder_of(home, name) / "network.json"))
    raise NotFound("cannot find the network", repr(name), hint=f"vmm network create {name}")


def _from_record(home: Path, record: records.Record) -> Network:
    try:
        fields: dict[str, Any] = {key: value for key, value in record.items() if key != "gateway"}
        fields["subnet"] = addresses.parse_subnet(fields["subnet"])
        return Network(home=home, **fields)
    except (KeyError, TypeError, Failure) as error:
        raise BadData("cannot read the network", str(record.get("name", "")), str(error)) from None


def listing(home: Path) -> list[Network]:
    """All networks that were created, by name."""
    try:
        found = sorted(os.listdir(home / "networks"))
    except FileNotFoundError:
        return []
    return [load(home, name) for name in found if (folder_of(home, name) / "network.json").is_file()]


def create(
    home: Path,
    name: str,
    subnet: str = "",
    internal: bool = False,
    labels: Mapping[str, str] | None = None,
    reserved: Mapping[str, str] | None = None,
) -> Network:
    """Create a network: a record, nothing in the kernel yet.

    Raises InUse where the name is taken or the subnet meets a route of this host or another network, and
    HostUnfit without root.
    """
    check_name(name)
    if os.geteuid() and name != DEFAULT:
        hint = "without root a container has --network user (slirp4netns), or none"
        raise HostUnfit("cannot create the network", repr(name), "bridges belong to root", hint)
    with records.lock(paths.ensure(home / "networks") / ".lock"):
        if (folder_of(home, name) / "network.json").exists():
            raise InUse(
                "cannot create the network", repr(name), "the name is taken", f"vmm network rm {name}"
            )
        place = _place(home, subnet)
        _check_reserved(place, reserved or {})
        bridge = bridge_name(home, name)
        network = Network(home, name, place, bridge, internal, time.time(), labels or {}, reserved or {})
        paths.ensure(folder_of(home, name))
        records.write(folder_of(home, name) / "network.json", network.to_record())
    return network


def _place(home: Path, wanted: str) -> Subnet:
    taken = [(f"network {other.name}", other.subnet) for other in listing(home)]
    taken += [(f"device {name}", subnet) for name, subnet in _routes()]
    if not wanted:
        return addresses.free_subnet(subnet for _, subnet in taken)
    place = addresses.parse_subnet(wanted)
    for holder, subnet in taken:
        if place.meets(subnet):
            raise InUse("cannot use the subnet", wanted, f"{holder} has {subnet}", "leave --subnet out")
    return place


def _routes() -> list[tuple[str, Subnet]]:
    return addresses.routed(Path("/proc/net/route").read_text())


def _check_reserved(subnet: Subnet, reserved: Mapping[str, str]) -> None:
    for member, ip in reserved.items():
        if not subnet.holds(addresses.parse(ip)):
            raise Usage("cannot reserve the address", f"{member}={ip}", f"no member's place in {subnet}")
    if len(set(reserved.values())) != len(reserved):
        raise Usage("cannot reserve the addresses", why="two names ask for the same one")


@contextlib.contextmanager
def held(network: Network) -> Iterator[None]:
    """Hold the network's lock: leases, bridge and rules of it change under it only."""
    with records.lock(network.folder / "lock"):
        yield


@contextlib.contextmanager
def joining(home: Path, name: str) -> Iterator[Network]:
    """The network, held, for a member that comes.

    The default one moves first where it is down and somebody took its subnet meanwhile.
    """
    network = load(home, name)
    with held(network):
        down = name == DEFAULT and not netlink.index_of(network.bridge)
        yield _moved(network) if down else network


def _moved(network: Network) -> Network:
    taker = next((f"{name} has {one}" for name, one in _routes() if one.meets(network.subnet)), "")
    if not taker or network.reserved or any(lease.alive() for lease in network.leases.all()):
        return network
    with records.lock(paths.ensure(network.home / "networks") / ".lock"):
        moved = network._replace(subnet=_place(network.home, ""))
        records.write(folder_of(network.home, network.name) / "network.json", moved.to_record())
    sys.stderr.write(
        f"vmm: the network {network.name!r} moves from {network.subnet} to {moved.subnet}: {taker} now\n"
    )
    return moved


def is_up(network: Network) -> bool:
    """Whether bridge, rules and name server stand; three questions to the kernel, 0.2 ms."""
    standing = netlink.index_of(network.bridge) > 0 and nftables.has(_elements(network)[0])
    return standing and names.running(network.folder) > 0


def _elements(network: Network) -> list[Element]:
    one = name_key(network.bridge)
    kind = "internal" if network.internal else "nat"
    pair = name_key(network.bridge, network.bridge)
    return [Element("bridges", one), Element(kind, one), Element("same", pair)]


def plan_up(network: Network) -> list[str]:
    """The shell commands that would bring the network up by hand."""
    argv = names.plan(network.folder, network.bridge, network.subnet, network.internal)
    lines = [f"ip link add {network.bridge} type bridge"]
    lines += [f"ip addr add {network.gateway}/{network.subnet.prefix} dev {network.bridge}"]
    lines += [f"ip link set {network.bridge} up"]
    lines += [f"sysctl -w {path.replace('/', '.')}={value}" for path, value in _sysctls(network)]
    lines += ["nft -f - <<'END'\n" + nftables.SCRIPT + "END"]
    for one in _elements(network):
        shown = " . ".join([f'"{network.bridge}"'] * (len(one.key) // 16))
        lines.append(f"nft add element ip vmm {one.set} '{{ {shown} }}'")
    return [*lines, " ".join(argv)]


def _sysctls(network: Network) -> list[tuple[str, str]]:
    """What the bridge needs of the kernel.

    route_localnet on the bridge alone lets replies to connections of 127.0.0.1 come back through it; the
    table's `early` chain drops what a member would send to the host's loopback by itself (CVE-2020-8558).
    """
    device = f"net/ipv4/conf/{network.bridge}"
    return [
        (f"{device}/route_localnet", "1"),
        (f"net/ipv6/conf/{network.bridge}/disable_ipv6", "1"),
        ("net/ipv4/ip_forward", "1"),
    ]


def bring_up(network: Network) -> None:
    """Bring bridge, rules and name server up, whichever of them is missing; the caller holds the lock."""
    network.leases.make_folders()
    try:
        _make_bridge(network)
    except NetlinkFailed as error:
        if error.number == errno.EPERM:
            error.hint = "bridges need root; without it containers use --network user (slirp4netns)"
        raise
    for path, value in _sysctls(network):
        _write_sysctl(path, value)
    nftables.install()
    add_missing(_elements(network))
    for lease in network.leases.all():  # a flushed table has lost them too
        if lease.alive():
            add_missing(ports.element(port, addresses.parse(lease.ip)) for port in lease.ports)
    names.start(network.folder, network.bridge, network.subnet, network.internal)


def _make_bridge(network: Network) -> None:
    index = netlink.index_of(network.bridge)
    with Netlink() as socket:
        if not index:
            _check_routes(network)
            mac = bytes.fromhex(addresses.mac_for(network.subnet.gateway).replace(":", ""))
            socket.send([netlink.bridge(network.bridge, mac)])
            index = netlink.index_of(network.bridge)
            socket.send([netlink.named(index, alias_of(network))])
        try:
            socket.send([netlink.address(index, network.subnet.gateway, network.subnet.prefix)])
        except NetlinkFailed as error:
            if error.number != errno.EEXIST:
                raise
        socket.send([netlink.up(index, network.bridge)])


_ALIAS = "vmm network "


def alias_of(network: Network) -> str:
    """What stands on the bridge: by it `repair` knows one whose home was deleted."""
    return f"{_ALIAS}{network.name} of {network.home}"


def owner(alias: str) -> tuple[str, Path] | None:
    """The network's name and home in a bridge's alias, None in any other."""
    name, of, home = alias.removeprefix(_ALIAS).partition(" of ")
    return (name, Path(home)) if alias.startswith(_ALIAS) and of else None


def _check_routes(network: Network) -> None:
    for device, subnet in _routes():
        if subnet.meets(network.subnet) and device != network.bridge:
            why = f"{device} has {subnet} now, which meets {network.subnet}"
            raise InUse(
                "cannot bring the network up", repr(network.name), why, f"vmm network rm {network.name}"
            )


def _write_sysctl(path: str, value: str) -> None:
    """Write a value unless it stands already; a kernel without IPv6 lacks some of the files."""
    where = Path("/proc/sys", path)
    try:
        if where.read_text().strip() != value:
            where.write_text(value)
    except OSError as error:
        if "ipv6" not in path:
            raise Failure("cannot set the sysctl", path, os.strerror(error.errno or 0)) from None


def add_missing(elements: Iterable[Element]) -> None:
    """Add those elements that are not there yet."""
    for one in elements:
        try:
            nftables.add([one])
        except NetlinkFailed as error:
            if error.number != errno.EEXIST:
                raise


def take_down(network: Network) -> None:
    """Take name server, rules' elements and bridge away; each may be gone already. The caller holds the
    lock.
    """
    names.stop(network.folder)
    nftables.remove(_elements(network))
    index = netlink.index_of(network.bridge)
    if index:
        with Netlink() as socket:
            socket.send([netlink.delete(index, network.bridge)])


def remove(home: Path, name: str) -> None:
    """Remove a network and everything of it; InUse while a member is on it."""
    import shutil

    network = load(home, name)
    with held(network):
        alive = [lease.member for lease in network.leases.all() if lease.alive()]
        if alive:
            hint = f"vmm rm -f {' '.join(alive)}"
            raise InUse("cannot remove the network", repr(name), f"{', '.join(alive)} on it", hint)
        if os.geteuid() == 0:  # nobody else can have brought it up
            take_down(network)
        shutil.rmtree(folder_of(home, name))
        shutil.rmtree(network.folder)
