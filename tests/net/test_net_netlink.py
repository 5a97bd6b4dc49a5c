"""Our rtnetlink against pyroute2's, in a network namespace of the test's own."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest
from net_lab import Member

from host.linux.net import addresses, loopback_up, netlink, nftables
from host.linux.net.netlink import Netlink, NetlinkFailed
from host.linux.net.nftables import Element, name_key

MAC = bytes.fromhex("02760a000009")


@pytest.mark.usefixtures("own_network")
def test_veth_is_born_in_the_target_namespace(member: Callable[[], Member]) -> None:
    inside = member()
    with Netlink() as socket:
        socket.send([netlink.bridge("br0", MAC)])
        socket.send([netlink.veth("v0", "eth0", inside.fd, netlink.index_of("br0"), MAC)])
        ours = {link.name: link for link in netlink.links(socket)}
    assert "eth0" not in ours
    assert ours["v0"].master == ours["br0"].number
    assert ours["v0"].up
    assert ours["v0"].kind == "veth"
    told = inside.run("ip", "-o", "link", "show", "eth0").stdout
    assert "02:76:0a:00:00:09" in told


@pytest.mark.usefixtures("own_network")
def test_links_and_addresses_are_what_pyroute2_sees() -> None:
    pyroute2 = pytest.importorskip("pyroute2")
    with Netlink() as socket:
        socket.send([netlink.bridge("br0", MAC)])
        index = netlink.index_of("br0")
        requests = [netlink.address(index, addresses.parse("10.9.8.1"), 22), netlink.up(index)]
        socket.send([*requests, netlink.default_route(index, addresses.parse("10.9.8.2"))])
        ours = netlink.links(socket)
    with pyroute2.IPRoute() as oracle:
        theirs = {link["index"]: link for link in oracle.get_links()}
        held = oracle.get_addr(index=index, family=2)
        route = oracle.get_default_routes(family=2)
    assert {link.number for link in ours} == set(theirs)
    for link in ours:
        assert link.name == theirs[link.number].get_attr("IFLA_IFNAME")
        assert link.mac == theirs[link.number].get_attr("IFLA_ADDRESS")
        assert link.up == bool(theirs[link.number]["flags"] & 1)
    assert [(one.get_attr("IFA_LOCAL"), one["prefixlen"], one.get_attr("IFA_BROADCAST")) for one in held] == [
        ("10.9.8.1", 22, "10.9.11.255")
    ]
    assert [one.get_attr("RTA_GATEWAY") for one in route] == ["10.9.8.2"]


@pytest.mark.usefixtures("own_network")
def test_errors_carry_the_kernels_words() -> None:
    with Netlink() as socket:
        socket.send([netlink.bridge("br0", MAC)])
        with pytest.raises(NetlinkFailed, match="cannot create the bridge br0: File exists") as told:
            socket.send([netlink.bridge("br0", MAC)])
        assert told.value.number == errno.EEXIST
        with pytest.raises(NetlinkFailed, match=r"Invalid argument: .*mtu"):
            socket.send([netlink.bridge("br1", MAC, mtu=20)])
        with pytest.raises(NetlinkFailed, match="No such device"):
            socket.send([netlink.up(999)])
        assert netlink.find(socket, "nobody") is None
        assert netlink.index_of("nobody") == 0


@pytest.mark.usefixtures("own_network")
def test_first_refusal_is_told_and_the_others_are_carried_out() -> None:
    with Netlink() as socket, pytest.raises(NetlinkFailed, match="link up 999"):
        socket.send([netlink.bridge("br0", MAC), netlink.up(999), netlink.bridge("br1", MAC)])
    assert netlink.index_of("br0")
    assert netlink.index_of("br1")


@pytest.mark.usefixtures("own_network")
def test_deleted_link_is_gone() -> None:
    with Netlink() as socket:
        socket.send([netlink.bridge("br0", MAC)])
        socket.send([netlink.delete(netlink.index_of("br0"))])
    assert not netlink.index_of("br0")


@pytest.mark.usefixtures("own_network")
def test_loopback_comes_up_inside_only_there(member: Callable[[], Member]) -> None:
    inside = member()
    assert "state DOWN" in inside.run("ip", "link", "show", "lo").stdout
    loopback_up(inside.fd)
    assert "127.0.0.1" in inside.run("ip", "addr", "show", "lo").stdout
    assert inside.run("busybox", "ping", "-c1", "-W1", "127.0.0.1").returncode == 0


@pytest.mark.usefixtures("own_network")
def test_elements_come_and_go_in_one_transaction() -> None:
    assert not nftables.has(Element("bridges", name_key("br0")))
    nftables.install()
    nftables.add([Element("bridges", name_key("br0")), Element("same", name_key("br0", "br0"))])
    nftables.install()  # again: the elements stay
    assert nftables.elements("bridges") == [Element("bridges", name_key("br0"))]
    with pytest.raises(NetlinkFailed, match="File exists"):
        nftables.add([Element("bridges", name_key("br1")), Element("bridges", name_key("br0"))])
    assert not nftables.has(Element("bridges", name_key("br1")))
    nftables.remove([Element("bridges", name_key("br1")), Element("bridges", name_key("br0"))])
    assert nftables.elements("bridges") == []
    assert nftables.elements("same") != []
