"""Our nft table `vmm`: its rules as one script for `nft -f -`, its elements by netlink.

The rules never change: a network is an element in `bridges`, `same`, `nat` or `internal`, a published port
is an element in `ports` or `ports_any`. Adding one costs a netlink batch of 0.1 ms instead of a program of
3 ms.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Iterator

from host.linux.net import netlink
from host.linux.net.netlink import Netlink, NetlinkFailed, attribute, attributes, text
from host.typing import NamedTuple

NETLINK_NETFILTER, NFPROTO_IPV4 = 12, 2
SUBSYS_NFTABLES = 10
BATCH_BEGIN, BATCH_END = 16, 17
NEWSETELEM, GETSETELEM, DELSETELEM = 12, 13, 14
LIST_TABLE, LIST_SET, LIST_ELEMENTS, LIST_ELEM = 1, 2, 3, 1
ELEM_KEY, ELEM_DATA, DATA_VALUE = 1, 2, 1
NESTED = 0x8000
TABLE = "vmm"

SCRIPT = """\
add table ip vmm
add set ip vmm bridges { type ifname; }
add set ip vmm same { type ifname . ifname; }
add set ip vmm nat { type ifname; }
add set ip vmm internal { type ifname; }
add map ip vmm ports { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }
add map ip vmm ports_any { type inet_proto . inet_service : ipv4_addr . inet_service; }
add chain ip vmm early { type filter hook prerouting priority raw; }
add chain ip vmm prerouting { type nat hook prerouting priority dstnat; }
add chain ip vmm output { type nat hook output priority -100; }
add chain ip vmm postrouting { type nat hook postrouting priority srcnat; }
add chain ip vmm forward { type filter hook forward priority filter; }
flush chain ip vmm early
flush chain ip vmm prerouting
flush chain ip vmm output
flush chain ip vmm postrouting
flush chain ip vmm forward
add rule ip vmm early iifname @bridges ip daddr 127.0.0.0/8 drop
add rule ip vmm early iifname @bridges ip saddr 127.0.0.0/8 drop
add rule ip vmm prerouting dnat ip to ip daddr . meta l4proto . th dport map @ports
add rule ip vmm prerouting fib daddr type local dnat ip to meta l4proto . th dport map @ports_any
add rule ip vmm output dnat ip to ip daddr . meta l4proto . th dport map @ports
add rule ip vmm output fib daddr type local dnat ip to meta l4proto . th dport map @ports_any
add rule ip vmm postrouting oifname @bridges ip saddr 127.0.0.0/8 masquerade
add rule ip vmm postrouting iifname . oifname @same ct status dnat masquerade
add rule ip vmm postrouting iifname @nat oifname != @bridges masquerade
add rule ip vmm forward iifname . oifname @same accept
add rule ip vmm forward oifname @bridges ct state established,related accept
add rule ip vmm forward oifname @bridges ct status dnat accept
add rule ip vmm forward oifname @bridges drop
add rule ip vmm forward iifname @internal ct state != { established, related } drop
"""


class Element(NamedTuple):
    """One element of a set or map of ours: key and data as the kernel keeps them."""

    set: str
    key: bytes
    data: bytes = b""


def install() -> None:
    """Put the table in place: the script may be run again and again, and leaves the elements alone."""
    from host import commands

    commands.run(["nft", "-f", "-"], "cannot install the nft table vmm", input=SCRIPT.encode(), timeout_s=20)


def has(one: Element) -> bool:
    """Whether the element is there: a reload of the host's firewall may have flushed the whole table."""
    return find(one) is not None


def find(one: Element) -> Element | None:
    """The element of that key as the kernel holds it, or None: it, its set or the table is not there."""
    with Netlink(NETLINK_NETFILTER) as socket:
        try:
            answers = socket.ask(SUBSYS_NFTABLES << 8 | GETSETELEM, _element_body(one._replace(data=b"")))
        except NetlinkFailed as error:
            if error.number in (errno.ENOENT, errno.EOPNOTSUPP):
                return None
            raise
    return next(iter(_listed(one.set, answers)), None)


def name_key(*names: str) -> bytes:
    """The key of one interface name, or of a pair: IFNAMSIZ bytes each."""
    return b"".join(name.encode().ljust(16, b"\0") for name in names)


def add(elements: Iterable[Element]) -> None:
    """Add all elements or none (one transaction); NetlinkFailed with EEXIST where one is there already."""
    _batch([(NEWSETELEM, one) for one in elements], netlink.NLM_F_CREATE | netlink.NLM_F_EXCL)


def remove(gone: Iterable[Element]) -> None:
    """Remove the elements; those that are not there, or whose table is gone, are no error.

    In one transaction where all are there: each costs the kernel an RCU grace period, some 10 ms.
    """
    changes = [(DELSETELEM, Element(one.set, one.key)) for one in gone]
    try:
        _batch(changes, 0)
    except NetlinkFailed as error:
        if error.number != errno.ENOENT:
            raise
        if len(changes) > 1:
            for _, one in changes:
                remove([one])


def elements(name: str) -> list[Element]:
    """All elements of a set or map; none where the table is not there."""
    body = _genmsg(NFPROTO_IPV4) + text(LIST_TABLE, TABLE) + text(LIST_SET, name)
    with Netlink(NETLINK_NETFILTER) as socket:
        try:
            answers = socket.ask(SUBSYS_NFTABLES << 8 | GETSETELEM, body, netlink.NLM_F_DUMP)
        except NetlinkFailed as error:
            if error.number == errno.ENOENT:
                return []
            raise
    return list(_listed(name, answers))


def _listed(name: str, answers: list[bytes]) -> Iterator[Element]:
    for answer in answers:
        for _, element in attributes(dict(attributes(answer[4:])).get(LIST_ELEMENTS, b"")):
            held = dict(attributes(element))
            yield Element(name, _value(held.get(ELEM_KEY, b"")), _value(held.get(ELEM_DATA, b"")))


def _value(nested: bytes) -> bytes:
    return dict(attributes(nested)).get(DATA_VALUE, b"")


def _genmsg(family: int, resource: int = 0) -> bytes:
    return struct.pack("!BBH", family, 0, resource)


def _batch(changes: list[tuple[int, Element]], flags: int) -> None:
    """One nfnetlink transaction: begin, the changes each with an acknowledgement, end."""
    if not changes:
        return
    with Netlink(NETLINK_NETFILTER) as socket:
        begin = socket.message(BATCH_BEGIN, netlink.NLM_F_REQUEST, _genmsg(0, SUBSYS_NFTABLES))
        first = socket.sequence + 1
        wanted = netlink.NLM_F_REQUEST | netlink.NLM_F_ACK | flags
        data = [
            socket.message(SUBSYS_NFTABLES << 8 | kind, wanted, _element_body(one)) for kind, one in changes
        ]
        waiting = set(range(first, first + len(changes)))
        end = socket.message(BATCH_END, netlink.NLM_F_REQUEST, _genmsg(0, SUBSYS_NFTABLES))
        socket.socket.send(begin + b"".join(data) + end)
        refused = socket.acknowledged(waiting, any_refusal_ends=True)
    if refused:
        at, (number, words) = min(refused.items())
        raise NetlinkFailed(
            "cannot change the nft table vmm", changes[max(0, at - first)][1].set, number, words
        )


def _element_body(one: Element) -> bytes:
    held = attribute(ELEM_KEY | NESTED, attribute(DATA_VALUE, one.key))
    if one.data:
        held += attribute(ELEM_DATA | NESTED, attribute(DATA_VALUE, one.data))
    listed = attribute(LIST_ELEMENTS | NESTED, attribute(LIST_ELEM | NESTED, held))
    return _genmsg(NFPROTO_IPV4) + text(LIST_TABLE, TABLE) + text(LIST_SET, one.set) + listed
