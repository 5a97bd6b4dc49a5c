"""A machine on one of libvirt's own networks: a static lease and a name, until the machine is removed."""

from __future__ import annotations

import contextlib
import ipaddress
from typing import NamedTuple
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement, tostring

import libvirt

from host.errors import Failure, NotFound, Unsupported
from vmm.spec import MachineSpec, Nic, replace

_ADD = libvirt.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST
_DELETE = libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE
_LEASES = libvirt.VIR_NETWORK_SECTION_IP_DHCP_HOST
_NAMES = libvirt.VIR_NETWORK_SECTION_DNS_HOST


class _Plan(NamedTuple):
    """What a network's XML says of its IPv4 side."""

    interface: ipaddress.IPv4Interface
    first: ipaddress.IPv4Address
    last: ipaddress.IPv4Address
    hosts: tuple[dict[str, str], ...]


def join(link: libvirt.virConnect, spec: MachineSpec, member: str) -> MachineSpec:
    """The spec with MAC and address of each card on a network of libvirt's, which is started if need be.

    Raises NotFound for a network that is not there, Unsupported for one that gives no IPv4 addresses.
    """
    nics = []
    for number, nic in enumerate(spec.nics):
        if nic.kind == "libvirt":
            mac = nic.mac or f"52:54:00:{spec.uuid[-4:-2]}:{spec.uuid[-2:]}:{number:02x}"
            nic = nic._replace(mac=mac, ip=_lease(_network(link, nic.network), nic, member, mac))
        nics.append(nic)
    return replace(spec, nics=tuple(nics))


def leave(link: libvirt.virConnect, spec: MachineSpec, member: str) -> None:
    """Give the leases and the names back; what is gone already is no error."""
    for nic in spec.nics:
        if nic.kind != "libvirt":
            continue
        with contextlib.suppress(Failure, libvirt.libvirtError):
            network = _network(link, nic.network)
            for host in _plan(network).hosts:
                if host.get("name") == member:
                    _update(network, _DELETE, _NAMES, _name_xml(member, host["ip"]))
                    _update(network, _DELETE, _LEASES, _host_xml(host))


def _network(link: libvirt.virConnect, name: str) -> libvirt.virNetwork:
    try:
        network = link.networkLookupByName(name)
        if not network.isActive():
            network.create()
    except libvirt.libvirtError as error:
        words = error.get_error_message() or str(error)
        hint = "virsh net-list --all names them; vmm network create makes one that containers share"
        raise NotFound("cannot join libvirt's network", name, words, hint) from None
    return network


def _lease(network: libvirt.virNetwork, nic: Nic, member: str, mac: str) -> str:
    plan = _plan(network)
    known = next((host for host in plan.hosts if host.get("name") == member), None)
    if known is None:
        known = {"mac": mac, "name": member, "ip": nic.ip or _free(network, plan)}
        _update(network, _ADD, _LEASES, _host_xml(known))
        _update(network, _ADD, _NAMES, _name_xml(member, known["ip"]))
    return f"{known['ip']}/{plan.interface.network.prefixlen},{plan.interface.ip}"


def _plan(network: libvirt.virNetwork) -> _Plan:
    for ip in ElementTree.fromstring(network.XMLDesc()).findall("ip"):
        span = ip.find("dhcp/range")
        if ip.get("family", "ipv4") == "ipv4" and span is not None:
            size = ip.get("prefix") or ip.get("netmask") or "24"
            hosts = tuple(dict(host.attrib) for host in ip.findall("dhcp/host"))
            first, last = (ipaddress.IPv4Address(span.get(end, "")) for end in ("start", "end"))
            return _Plan(ipaddress.IPv4Interface(f"{ip.get('address')}/{size}"), first, last, hosts)
    why = "it gives no IPv4 addresses by DHCP"
    raise Unsupported("cannot join libvirt's network", network.name(), why, "vmm network create NAME")


def _free(network: libvirt.virNetwork, plan: _Plan) -> str:
    taken = {host.get("ip") for host in plan.hosts} | {one["ipaddr"] for one in network.DHCPLeases()}
    for number in range(int(plan.first), int(plan.last) + 1):
        address = str(ipaddress.IPv4Address(number))
        if address not in taken:
            return address
    raise Failure("cannot join libvirt's network", network.name(), "all its addresses are given")


def _update(network: libvirt.virNetwork, command: int, section: int, xml: str) -> None:
    live = libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE
    kept = libvirt.VIR_NETWORK_UPDATE_AFFECT_CONFIG if network.isPersistent() else 0
    network.update(command, section, -1, xml, live | kept)


def _host_xml(host: dict[str, str]) -> str:
    return tostring(
        Element("host", {key: host[key] for key in ("mac", "name", "ip") if key in host}), "unicode"
    )


def _name_xml(member: str, ip: str) -> str:
    host = Element("host", {"ip": ip})
    SubElement(host, "hostname").text = member
    return tostring(host, "unicode")
