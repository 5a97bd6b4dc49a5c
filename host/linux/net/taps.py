"""TAP devices: a machine's end on a network. Not persistent: a TAP dies with the last descriptor, with
QEMU.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from host.errors import HostUnfit, from_os_error
from host.linux.net import members, netlink, networks
from host.linux.net.leases import Lease
from host.linux.net.netlink import Netlink
from host.linux.net.ports import Port

# linux/if_tun.h
TUNSETIFF, IFF_TAP, IFF_NO_PI, IFF_VNET_HDR, IFF_TUN_EXCL = 0x400454CA, 0x0002, 0x1000, 0x4000, 0x8000


class Tap(NamedTuple):
    """An open TAP for `-netdev tap,fd=N` (the caller closes it after QEMU has inherited it) and its lease."""

    fd: int
    lease: Lease


def tap(
    home: Path,
    network_name: str,
    member: str,
    *,
    mac: str = "",
    ip: str = "",
    aliases: Sequence[str] = (),
    ports: Sequence[Port] = (),
) -> Tap:
    """A new TAP on a network, with a static DHCP lease for the MAC and the member's name in DNS.

    Raises as `attach` does, and HostUnfit without /dev/net/tun.
    """
    with networks.joining(home, network_name) as network:
        lease = members.claim(network, member, "tap", "eth0", ip, mac, aliases)
        fd = -1
        try:
            fd = _open(lease.link)
            with Netlink() as socket:
                index, master = netlink.index_of(lease.link), netlink.index_of(network.bridge)
                socket.send([netlink.enslave(index, master, lease.link)])
            network.leases.name(lease)
            return Tap(fd, members.publish_on(network, lease, ports))
        except BaseException:
            if fd >= 0:
                os.close(fd)
            members.release(network, lease)
            raise


def _open(name: str) -> int:
    """A TAP of that name with the virtio header, as QEMU's tap back end wants it (tun.rst of the kernel)."""
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        hint = "use --network user, which needs no TAP"
        raise HostUnfit("cannot make a TAP", "/dev/net/tun", os.strerror(error.errno or 0), hint) from None
    try:
        flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_TUN_EXCL
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    except OSError as error:
        os.close(fd)
        raise from_os_error("cannot make the TAP", error, name) from None
    return fd


def reserve(
    home: Path,
    network_name: str,
    member: str,
    *,
    mac: str = "",
    ip: str = "",
    link: str = "",
    aliases: Sequence[str] = (),
    ports: Sequence[Port] = (),
) -> Lease:
    """A lease for a machine whose TAP somebody else makes (libvirt: source bridge=lease.bridge, target
    dev=lease.link).

    It stands until `detach`, or until the instance's folder is gone.
    """
    with networks.joining(home, network_name) as network:
        lease = members.claim(network, member, "reserved", "eth0", ip, mac, aliases, link)
        try:
            network.leases.name(lease)
            return members.publish_on(network, lease, ports)
        except BaseException:
            members.release(network, lease)
            raise
