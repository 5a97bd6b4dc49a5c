"""Machines' ends: a TAP that dies with its holder, an address by DHCP, a name that containers resolve."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from net_lab import Member

from host.errors import InUse
from host.linux import net
from host.linux.net import netlink, networks, nftables

MAC = "52:54:00:12:34:56"


def test_tap_is_a_port_of_the_bridge_and_dies_with_its_descriptor(lab: Path) -> None:
    tap = net.tap(lab, "bridge", "machine", ports=net.parse_ports("2222:22"))
    with netlink.Netlink() as socket:
        link = netlink.find(socket, tap.lease.link)
    assert link is not None
    assert link.master == netlink.index_of(tap.lease.bridge)
    assert link.up
    assert tap.lease.alive()
    with pytest.raises(InUse, match="on it already"):
        net.tap(lab, "bridge", "machine")
    os.close(tap.fd)
    assert not tap.lease.alive()
    again = net.tap(lab, "bridge", "machine")
    assert again.lease.ip == tap.lease.ip
    os.close(again.fd)
    net.detach(lab, "bridge", "machine")
    assert nftables.elements("ports") == []


def test_machine_gets_its_static_lease_by_dhcp_and_is_known_by_name(
    lab: Path, member: Callable[[], Member], tmp_path: Path
) -> None:
    """A veth with the machine's MAC plays its NIC, busybox' udhcpc its DHCP client."""
    machine, web = member(), member()
    (lab / "instances" / "vm").mkdir(parents=True)
    lease = net.reserve(lab, "bridge", "vm", mac=MAC)
    other = net.attach(lab, "bridge", "web", web.fd)
    with netlink.Netlink() as socket:
        master = netlink.index_of(lease.bridge)
        socket.send(
            [netlink.veth(lease.link, "eth0", machine.fd, master, bytes.fromhex(MAC.replace(":", "")))]
        )
    script = tmp_path / "leased"
    script.write_text(
        '#!/bin/sh\n[ "$1" = bound ] && ip addr add $ip/$mask dev $interface && echo $router $dns\n'
    )
    script.chmod(0o755)
    machine.run("ip", "link", "set", "eth0", "up")
    told = machine.run(
        "busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-f", "-t", "5", "-T", "1", "-s", str(script)
    )
    assert f"{lease.gateway} {lease.gateway}" in told.stdout, told.stderr
    assert f" {lease.ip}/22 " in machine.run("ip", "addr", "show", "eth0").stdout
    assert web.run("busybox", "ping", "-c1", "-W1", lease.ip).returncode == 0
    assert lease.ip in web.run("busybox", "nslookup", "-type=a", "vm", other.dns).stdout
    assert other.ip in machine.run("busybox", "nslookup", "-type=a", "web", lease.dns).stdout


def test_a_stranger_gets_no_lease(lab: Path, member: Callable[[], Member]) -> None:
    stranger = member()
    lease = net.reserve(lab, "bridge", "vm", mac=MAC)
    with netlink.Netlink() as socket:
        master = netlink.index_of(lease.bridge)
        socket.send([netlink.veth("vstranger", "eth0", stranger.fd, master, bytes.fromhex("525400123499"))])
    stranger.run("ip", "link", "set", "eth0", "up")
    told = stranger.run(
        "busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-f", "-t", "2", "-T", "1", "-s", "/bin/true"
    )
    assert told.returncode != 0


def test_reserved_lease_goes_when_its_instance_is_gone(lab: Path) -> None:
    (lab / "instances" / "vm").mkdir(parents=True)
    net.reserve(lab, "bridge", "vm", mac=MAC)
    assert net.repair(lab) == []
    (lab / "instances" / "vm").rmdir()
    assert len(net.repair(lab)) == 1
    assert networks.load(lab, "bridge").leases.all() == []


def test_tap_without_device_is_told(lab: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from host.linux import net; from host.errors import Failure\n"
        "try: net.tap(Path(sys.argv[1]), 'bridge', 'vm')\n"
        "except Failure as error: print(error.told())\n"
    )
    argv = [
        "unshare",
        "-m",
        "sh",
        "-c",
        'mount -t tmpfs t /dev/net; exec "$@"',
        "sh",
        sys.executable,
        "-c",
        code,
    ]
    told = subprocess.run([*argv, str(lab)], capture_output=True, text=True, check=True).stdout
    assert "cannot make a TAP /dev/net/tun: No such file" in told
    assert "hint: use --network user" in told
    assert networks.load(lab, "bridge").leases.all() == []
