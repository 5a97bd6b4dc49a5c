"""What a member's place on a network is made of, as the shell commands that would make it."""

from __future__ import annotations

from host.linux.net.leases import Lease
from host.linux.net.ports import ANYWHERE, Port


def by_hand(lease: Lease, pid: int) -> list[str]:
    """The commands for a lease whose member's first process is `pid`; a machine's TAP has no inside to set
    up.
    """
    inside = f"nsenter -t {pid} -n ip"
    if lease.kind == "veth":
        peer = f"peer name {lease.interface} address {lease.mac} netns {pid}"
        lines = [f"ip link add {lease.link} up master {lease.bridge} type veth {peer}"]
        lines += [f"{inside} link set lo up", f"{inside} link set {lease.interface} up"]
        lines += [f"{inside} addr add {lease.ip}/{lease.prefix} dev {lease.interface}"]
        if lease.interface == "eth0":
            lines.append(f"{inside} route add default via {lease.gateway}")
    else:
        lines = [
            f"ip tuntap add {lease.link} mode tap vnet_hdr",
            f"ip link set {lease.link} up master {lease.bridge}",
        ]
    return lines + [f"nft {element(port, lease.ip)}" for port in lease.ports]


def element(port: Port, ip: str) -> str:
    """The nft command for one published port."""
    where = f"{port.protocol} . {port.host} : {ip} . {port.guest}"
    if port.host_ip == ANYWHERE:
        return f"add element ip vmm ports_any '{{ {where} }}'"
    return f"add element ip vmm ports '{{ {port.host_ip} . {where} }}'"
