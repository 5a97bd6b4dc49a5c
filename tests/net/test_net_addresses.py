"""Addresses and ports, the pure parts, against the standard library's ipaddress."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.errors import Failure, HostUnfit, Unsupported, Usage
from host.linux.net import addresses, ports
from host.linux.net.addresses import Subnet
from host.linux.net.ports import Port, parse_ports

_subnets = st.builds(
    lambda ip, prefix: Subnet(ip & (0xFFFFFFFF << (32 - prefix)) & 0xFFFFFFFF, prefix),
    st.integers(0, 0xFFFFFFFF),
    st.integers(8, 29),
)


@given(st.integers(0, 0xFFFFFFFF))
def test_address_is_told_and_parsed_as_ipaddress_does(ip: int) -> None:
    assert addresses.told(ip) == str(ipaddress.IPv4Address(ip))
    assert addresses.parse(addresses.told(ip)) == ip


@given(_subnets, _subnets)
def test_subnets_meet_where_ipaddress_says_they_overlap(one: Subnet, other: Subnet) -> None:
    expected = ipaddress.ip_network(str(one)).overlaps(ipaddress.ip_network(str(other)))
    assert one.meets(other) == other.meets(one) == expected


@given(_subnets, st.text(max_size=20), st.integers(0, 5))
def test_chosen_address_is_a_free_host_of_the_subnet(subnet: Subnet, name: str, count: int) -> None:
    taken: set[int] = set()
    for _ in range(count):
        ip = addresses.choose(subnet, name, taken)
        assert ip not in taken
        assert subnet.holds(ip)
        assert ipaddress.IPv4Address(ip) in ipaddress.ip_network(str(subnet))
        taken.add(ip)


def test_full_subnet_is_an_error() -> None:
    subnet = addresses.parse_subnet("10.0.0.0/29")
    taken = {ip for ip in range(subnet.base, subnet.base + 8) if subnet.holds(ip)}
    assert len(taken) == 5
    with pytest.raises(HostUnfit, match="all 5 are leased"):
        addresses.choose(subnet, "web", taken)


@pytest.mark.parametrize("text", ["", "1.2.3", "1.2.3.4.5", "1.2.3.256", "a.b.c.d", "1.2.3.-4", "1.2.3.٤"])
def test_no_address(text: str) -> None:
    with pytest.raises(Usage):
        addresses.parse(text)


@pytest.mark.parametrize(
    "text", ["10.0.0.1/24", "10.0.0.0/30", "10.0.0.0/7", "10.0.0.0", "x/24", "10.0.0.0/2x"]
)
def test_no_subnet(text: str) -> None:
    with pytest.raises(Usage):
        addresses.parse_subnet(text)


def test_free_subnet_avoids_what_is_taken() -> None:
    first = addresses.free_subnet([])
    assert str(addresses.free_subnet([first])) == "10.213.4.0/22"
    with pytest.raises(HostUnfit, match="used up"):
        addresses.free_subnet([addresses.parse_subnet("10.0.0.0/8")])


def test_routes_of_the_kernels_table() -> None:
    text = (
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
        "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
    )
    assert [(name, str(subnet)) for name, subnet in addresses.routed(text)] == [("eth0", "192.0.2.0/24")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8080:80", [Port("127.0.0.1", 8080, 80)]),
        ("80", [Port("127.0.0.1", 0, 80)]),
        ("0.0.0.0:53:53/udp", [Port("0.0.0.0", 53, 53, "udp")]),
        ("10.1.2.3::80", [Port("10.1.2.3", 0, 80)]),
        ("90-91:80-81/tcp", [Port("127.0.0.1", 90, 80), Port("127.0.0.1", 91, 81)]),
    ],
)
def test_ports_as_people_write_them(text: str, expected: list[Port]) -> None:
    assert list(parse_ports(text)) == expected


NO_PORTS = (
    " : a:b 0:80 80:0 65536:80 80:80/sctp 80:80/x 1.2.3:80:80 9-8:80-81 80-82:80-81 1:2:3:4 [::1]:80:80 -1:80"
)


@pytest.mark.parametrize("text", NO_PORTS.split(" "))
def test_no_ports(text: str) -> None:
    with pytest.raises((Usage, Unsupported)) as told:
        parse_ports(text)
    assert told.value.hint


@given(
    st.integers(0, 0xFFFFFFFF), st.integers(1, 65535), st.integers(1, 65535), st.sampled_from(["tcp", "udp"])
)
def test_element_points_to_the_member(ip: int, host: int, guest: int, protocol: str) -> None:
    for host_ip in ("127.0.0.1", "0.0.0.0"):
        one = ports.element(Port(host_ip, host, guest, protocol), ip)
        assert ports.target(one) == ip
        assert len(one.data) == 8
        assert len(one.key) == (12 if one.set == "ports" else 8)


def test_mac_of_an_address_is_local_and_unicast() -> None:
    raw = addresses.parse_mac(addresses.mac_for(addresses.parse("10.213.0.9")))
    assert raw[0] & 3 == 2
    for bad in ("01:00:00:00:00:00", "02:00:00:00:00", "02:00:00:00:00:0g", "020000000000"):
        with pytest.raises(Failure):
            addresses.parse_mac(bad)
