"""What killed commands left on the networks of one home, found and taken away."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from host import paths
from host.linux.net import members, names, netlink, networks
from host.linux.net.addresses import Subnet
from host.linux.net.netlink import Netlink, NetlinkFailed


def repair(home: Path) -> list[str]:
    """Release dead members' leases and ports, stray links on our bridges, and what is left of removed
    networks.

    Idempotent, safe beside running commands; returns one line for each thing that went.
    """
    if os.geteuid():
        return []  # bridges belong to root; a user's slirp4netns is ended with its container
    gone: list[str] = []
    for network in networks.listing(home):
        if network.folder.is_dir():
            with networks.held(network):
                gone += members.sweep(network)
                gone += _stray_links(network)
                if members_alive(network) and not networks.is_up(network):
                    networks.bring_up(network)
                    gone.append(f"the missing parts of {network.name} (brought up again)")
    return gone + _left_folders(home) + _orphans()


def members_alive(network: networks.Network) -> bool:
    """Whether a member is on the network."""
    return any(lease.alive() for lease in network.leases.all())


def _stray_links(network: networks.Network) -> list[str]:
    """Ports of the bridge that no lease names: made by a command that was killed before it could write or
    undo.
    """
    master = netlink.index_of(network.bridge)
    if not master:
        return []
    named = {lease.link for lease in network.leases.all()}
    with Netlink() as socket:
        stray = [link for link in netlink.links(socket) if link.master == master and link.name not in named]
        stray = [
            link
            for link in stray
            if link.kind == "veth" and link.name.startswith("v") and len(link.name) == 13
        ]
        for link in stray:
            try:
                socket.send([netlink.delete(link.number, link.name)])
            except NetlinkFailed as error:
                if error.number != errno.ENODEV:  # the kernel was just collecting it
                    raise
    return [f"link {link.name} on {network.name}" for link in stray]


def _orphans() -> list[str]:
    """Bridges without ports whose home was deleted under them, and servers without a bridge."""
    gone = []
    with Netlink() as socket:
        links = netlink.links(socket)
        for link in links:
            place = networks.owner(link.alias) if link.kind == "bridge" else None
            if place is None or (networks.folder_of(place[1], place[0]) / "network.json").exists():
                continue
            if any(other.master == link.number for other in links):
                continue  # somebody is on it: perhaps the home is only out of our sight
            networks.take_down(networks.Network(place[1], place[0], Subnet(0, 29), link.name))
            gone.append(f"bridge {link.name} of the deleted home {place[1]}")
    return gone + names.stop_orphans()


def _left_folders(home: Path) -> list[str]:
    """Run folders of networks whose record is gone: `rm` was killed between the two."""
    root = paths.run_dir(home) / ".net"
    gone = []
    for name in sorted(os.listdir(root)) if root.is_dir() else []:
        if not (networks.folder_of(home, name) / "network.json").exists():
            networks.take_down(networks.Network(home, name, Subnet(0, 29), networks.bridge_name(home, name)))
            shutil.rmtree(root / name, ignore_errors=True)
            gone.append(f"what was left of the network {name}")
    return gone
