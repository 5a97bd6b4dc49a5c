"""A machine on networks that containers share: its TAPs, leases and published ports.

For the qemu driver we open the TAP and QEMU inherits it; libvirt makes one itself, by the name we leased.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from host import paths
from host.errors import Unsupported
from vmm.spec import MachineSpec, Nic, replace

if TYPE_CHECKING:
    from host.linux.net import Lease, Port


class Joined(NamedTuple):
    """The spec with leased addresses, TAP descriptors by the name of their card, and libvirt's bridges and
    links.
    """

    spec: MachineSpec
    fds: tuple[tuple[str, int], ...] = ()
    bridges: tuple[tuple[str, str, str], ...] = ()

    def close(self) -> None:
        """Close our copies of the TAPs: QEMU holds its own, and its end must be theirs."""
        for _, fd in self.fds:
            os.close(fd)


def on_networks(spec: MachineSpec) -> bool:
    """Whether a card of the machine is on a network of ours."""
    return any(nic.kind == "network" for nic in spec.nics)


def join(spec: MachineSpec, member: str, taps: bool) -> Joined:
    """Lease a place for each card that is on a network; all or nothing. `taps` opens TAPs, else libvirt will.

    Raises what host.linux.net.tap raises, and Unsupported without root.
    """
    if not on_networks(spec):
        return Joined(spec)
    if os.geteuid():
        hint = "without root: --network user, QEMU's own NAT, which forwards ports too"
        raise Unsupported("cannot join a network with", member, "bridges belong to root", hint)
    leave(spec, member)
    nics: list[Nic] = []
    fds: list[tuple[str, int]] = []
    bridges: list[tuple[str, str, str]] = []
    try:
        for number, nic in enumerate(spec.nics):
            if nic.kind == "network":
                lease = _lease(nic, member, f"net{number}", taps, fds)
                bridges.append((f"net{number}", lease.bridge, lease.link))
                nic = replace(nic, mac=lease.mac, ip=f"{lease.ip}/{lease.prefix},{lease.gateway}")
            nics.append(nic)
    except BaseException:
        Joined(spec, tuple(fds)).close()
        leave(spec, member)
        raise
    return Joined(replace(spec, nics=tuple(nics)), tuple(fds), tuple(bridges))


def _lease(nic: Nic, member: str, card: str, taps: bool, fds: list[tuple[str, int]]) -> Lease:
    from host.linux import net

    home, ports = paths.home(), _ports(nic)
    if not taps:
        return net.reserve(home, nic.network, member, mac=nic.mac, ip=nic.ip, ports=ports)
    tap = net.tap(home, nic.network, member, mac=nic.mac, ip=nic.ip, ports=ports)
    fds.append((card, tap.fd))
    return tap.lease


def _ports(nic: Nic) -> tuple[Port, ...]:
    from host.linux.net import Port

    return tuple(Port(one.host_ip, one.host, one.guest, one.protocol) for one in nic.forwards)


def leave(spec: MachineSpec, member: str) -> None:
    """Leave all networks; idempotent, for every path on which the machine ends."""
    if on_networks(spec) and os.geteuid() == 0:
        from host.linux import net

        net.detach_all(paths.home(), member)


PLACE = "place"  # in the run directory of a machine on a network of libvirt's: `IP/PREFIX,GATEWAY`


def resolv_conf(spec: MachineSpec, member: str, run: Path) -> str:
    """The text for /etc/resolv.conf of a guest without a DHCP client; empty where it is on no network."""
    if not on_networks(spec):
        place = _place(run)
        return f"nameserver {place.partition(',')[2]}\n" if place else ""
    from host.linux import net

    leases = net.leases_of(paths.home(), member)
    return leases[0].resolv_conf() if leases else ""


def address(spec: MachineSpec, member: str, run: Path) -> str:
    """The address that the machine leased on its first network; empty where it is on none."""
    if not on_networks(spec):
        return _place(run).partition("/")[0]
    from host.linux import net

    leases = net.leases_of(paths.home(), member)
    return leases[0].ip if leases else ""


def _place(run: Path) -> str:
    try:
        return (run / PLACE).read_text()
    except FileNotFoundError:
        return ""


def published(spec: MachineSpec, member: str) -> list[tuple[str, int, int, str]]:
    """(host address, host port, port inside, protocol) of what the machine's networks publish for it."""
    if not on_networks(spec) or not _home_has_networks():
        return []
    from host.linux import net

    ports = [port for lease in net.leases_of(paths.home(), member) for port in lease.ports]
    return [(one.host_ip, one.host, one.guest, one.protocol) for one in ports]


def _home_has_networks() -> bool:
    return Path(paths.home(), "networks").is_dir()
