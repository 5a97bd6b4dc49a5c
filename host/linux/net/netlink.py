"""rtnetlink, the part we need: links born where they belong, addresses, routes; errors in the kernel's words.

netlink(7), rtnetlink(7). A veth's far end is created inside the target namespace by IFLA_NET_NS_FD in the
same message: moving a link afterwards costs a synchronize_net() in the kernel, some 27 ms.
"""

from __future__ import annotations

import _socket  # `socket` costs 10 ms of imports (selectors, enum) on the path of every start
import os
import struct
from collections.abc import Iterator, Sequence

from host.errors import Failure
from host.typing import NamedTuple

NLM_F_REQUEST, NLM_F_MULTI, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x2, 0x4, 0x300
NLM_F_EXCL, NLM_F_CREATE = 0x200, 0x400
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200
NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_GETADDR, RTM_NEWROUTE = 20, 22, 24
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_MASTER, IFLA_LINKINFO = 1, 3, 4, 10, 18
IFLA_IFALIAS, IFLA_NET_NS_FD = 20, 28
IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER = 1, 2, 1
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST = 1, 2, 4
RTA_OIF, RTA_GATEWAY = 4, 5
IFF_UP = 1
AF_INET, NETLINK_ROUTE = 2, 0
SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK = 270, 10, 11
NLMSGERR_ATTR_MSG = 1
_HEADER = struct.Struct("=IHHII")
_IFINFO = struct.Struct("=BxHiII")


class NetlinkFailed(Failure):
    """The kernel refused a netlink request; `number` is its errno, `why` its words (extended ack, if it
    sent one).
    """

    def __init__(self, what: str, on: str, number: int, words: str = "", hint: str = "") -> None:
        text = os.strerror(number)
        super().__init__(what, on, f"{text}: {words}" if words else text, hint)
        self.number = number


class Link(NamedTuple):
    """One network device as the kernel tells it; `number` is its index, `master` that of its bridge or 0."""

    number: int
    name: str
    master: int
    up: bool
    mac: str
    kind: str
    alias: str = ""


class Request(NamedTuple):
    """One message to send, and the words for the error should the kernel refuse it."""

    kind: int
    flags: int
    body: bytes
    what: str
    on: str


def attribute(kind: int, payload: bytes) -> bytes:
    """One netlink attribute, padded to four bytes (netlink(7))."""
    size = 4 + len(payload)
    return struct.pack("=HH", size, kind) + payload + bytes(-size % 4)


def text(kind: int, value: str) -> bytes:
    """An attribute that holds a string with its NUL."""
    return attribute(kind, value.encode() + b"\0")


def number(kind: int, value: int) -> bytes:
    """An attribute that holds an unsigned 32 bit number in host order."""
    return attribute(kind, struct.pack("=I", value))


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The (kind, payload) pairs of a run of attributes; the nested and byte-order flags are cut off the
    kind.
    """
    at = 0
    while at + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, at)
        if size < 4:
            return
        yield kind & 0x3FFF, data[at + 4 : at + size]
        at += (size + 3) & ~3


class Netlink:
    """A netlink socket of the network namespace it was opened in; a context manager."""

    def __init__(self, family: int = NETLINK_ROUTE) -> None:
        self.socket = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, family)
        self.sequence = 0
        try:
            self.socket.bind((0, 0))
            self.socket.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
            self.socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
            self.socket.settimeout(10.0)
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def message(self, kind: int, flags: int, body: bytes) -> bytes:
        """The bytes of one message under the next sequence number."""
        self.sequence += 1
        return _HEADER.pack(_HEADER.size + len(body), kind, flags, self.sequence, 0) + body

    def send(self, requests: Sequence[Request]) -> None:
        """Send the requests in one datagram and take an answer to each.

        The kernel carries out all of them; the first refusal is raised as NetlinkFailed.
        """
        first = self.sequence + 1
        data = b"".join(
            self.message(
                one.kind, one.flags | NLM_F_REQUEST | NLM_F_ACK, one.body + bytes(-len(one.body) % 4)
            )
            for one in requests
        )
        self.socket.send(data)
        refused = self.acknowledged({first + at for at in range(len(requests))})
        if refused:
            at, (error, words) = min(refused.items())
            one = requests[max(0, at - first)]
            raise NetlinkFailed(one.what, one.on, error, words)

    def acknowledged(self, waiting: set[int], any_refusal_ends: bool = False) -> dict[int, tuple[int, str]]:
        """Take acknowledgements until each of the sequence numbers has one; return the refusals.

        A transaction is refused as a whole, and then not each of its messages gets an answer:
        `any_refusal_ends`.
        """
        refused: dict[int, tuple[int, str]] = {}
        while waiting and not (refused and any_refusal_ends):
            for kind, flags, sequence, body in self._receive():
                if kind != NLMSG_ERROR:
                    continue
                error = -struct.unpack_from("=i", body)[0]
                waiting.discard(sequence)
                if error:
                    refused[sequence] = (error, _extended_words(flags, body))
        return refused

    def ask(self, kind: int, body: bytes, flags: int = 0, what: str = "cannot ask the kernel") -> list[bytes]:
        """The bodies of the answers to a get request; NLM_F_DUMP in `flags` asks for all objects."""
        self.socket.send(self.message(kind, flags | NLM_F_REQUEST, body))
        expected = self.sequence
        answers: list[bytes] = []
        while True:
            for got, got_flags, sequence, answer in self._receive():
                if sequence != expected:
                    continue
                if got == NLMSG_ERROR:
                    error = -struct.unpack_from("=i", answer)[0]
                    raise NetlinkFailed(what, "", error, _extended_words(got_flags, answer))
                if got == NLMSG_DONE:
                    return answers
                answers.append(answer)
                if not got_flags & NLM_F_MULTI:
                    return answers

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        data = self.socket.recv(1 << 18)
        at = 0
        while at + 16 <= len(data):
            size, kind, flags, sequence, _ = _HEADER.unpack_from(data, at)
            yield kind, flags, sequence, data[at + 16 : at + size]
            at += (size + 3) & ~3


def _extended_words(flags: int, body: bytes) -> str:
    """The kernel's own sentence in an error message: after errno and the header of ours (NETLINK_CAP_ACK)."""
    if not flags & NLM_F_ACK_TLVS:
        return ""
    skip = 4 + 16
    if not flags & NLM_F_CAPPED:
        skip += (struct.unpack_from("=I", body, 4)[0] - 16 + 3) & ~3
    words = dict(attributes(body[skip:])).get(NLMSGERR_ATTR_MSG, b"")
    return words.rstrip(b"\0").decode(errors="replace")


def index_of(name: str) -> int:
    """The index of a link of this namespace, or 0 when there is none."""
    try:
        return _socket.if_nametoindex(name)
    except OSError:
        return 0


def veth(host: str, inside: str, netns_fd: int, master: int, mac: bytes, mtu: int = 1500) -> Request:
    """A veth pair, `host` a port of the bridge `master` and up, `inside` with `mac` in the namespace, at
    once.

    The far end stays down: the kernel configures it before the pair is one, and would refuse (ENOTCONN).
    """
    peer = _IFINFO.pack(0, 0, 0, 0, 0) + text(IFLA_IFNAME, inside)
    peer += number(IFLA_MTU, mtu) + attribute(IFLA_ADDRESS, mac) + number(IFLA_NET_NS_FD, netns_fd)
    info = text(IFLA_INFO_KIND, "veth") + attribute(IFLA_INFO_DATA, attribute(VETH_INFO_PEER, peer))
    body = _IFINFO.pack(0, 0, 0, IFF_UP, IFF_UP) + text(IFLA_IFNAME, host) + number(IFLA_MTU, mtu)
    body += number(IFLA_MASTER, master) + attribute(IFLA_LINKINFO, info)
    return Request(
        RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, "cannot create the veth pair", f"{host}, {inside}"
    )


def bridge(name: str, mac: bytes, mtu: int = 1500) -> Request:
    """A bridge with a fixed MAC: else it takes its lowest port's, and changes it when that port goes."""
    body = _IFINFO.pack(0, 0, 0, 0, 0) + text(IFLA_IFNAME, name) + attribute(IFLA_ADDRESS, mac)
    body += number(IFLA_MTU, mtu) + attribute(IFLA_LINKINFO, text(IFLA_INFO_KIND, "bridge"))
    return Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, "cannot create the bridge", name)


def up(index: int, name: str = "") -> Request:
    """Set a link up."""
    body = _IFINFO.pack(0, 0, index, IFF_UP, IFF_UP)
    return Request(RTM_SETLINK, 0, body, "cannot set the link up", name or str(index))


def down(index: int, name: str = "") -> Request:
    """Set a link down."""
    body = _IFINFO.pack(0, 0, index, 0, IFF_UP)
    return Request(RTM_SETLINK, 0, body, "cannot set the link down", name or str(index))


def enslave(index: int, master: int, name: str = "") -> Request:
    """Make a link a port of the bridge `master`, and set it up."""
    body = _IFINFO.pack(0, 0, index, IFF_UP, IFF_UP) + number(IFLA_MASTER, master)
    return Request(RTM_SETLINK, 0, body, "cannot join the link to its bridge", name or str(index))


def named(index: int, alias: str) -> Request:
    """Write whose a link is where `ip link` shows it (at most 255 bytes, IFALIASZ)."""
    body = _IFINFO.pack(0, 0, index, 0, 0) + attribute(IFLA_IFALIAS, alias.encode()[:255])
    return Request(RTM_SETLINK, 0, body, "cannot name the owner of the link", str(index))


def delete(index: int, name: str = "") -> Request:
    """Delete a link; a veth's other end goes with it."""
    return Request(
        RTM_DELLINK, 0, _IFINFO.pack(0, 0, index, 0, 0), "cannot delete the link", name or str(index)
    )


def address(index: int, ip: int, prefix: int) -> Request:
    """Give a link an IPv4 address (a number in host order) in a subnet of `prefix` bits."""
    raw = struct.pack("!I", ip)
    broadcast = struct.pack("!I", ip | (0xFFFFFFFF >> prefix))
    body = struct.pack("=BBBBI", AF_INET, prefix, 0, 0, index)
    body += attribute(IFA_LOCAL, raw) + attribute(IFA_ADDRESS, raw) + attribute(IFA_BROADCAST, broadcast)
    on = f"{'.'.join(map(str, raw))}/{prefix}"
    return Request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body, "cannot set the address", on)


def default_route(index: int, gateway: int) -> Request:
    """The IPv4 default route through `gateway` (a number in host order) on a link."""
    table_main, protocol_boot, scope_universe, unicast = 254, 3, 0, 1
    body = struct.pack("=BBBBBBBBI", AF_INET, 0, 0, 0, table_main, protocol_boot, scope_universe, unicast, 0)
    raw = struct.pack("!I", gateway)
    body += attribute(RTA_GATEWAY, raw) + number(RTA_OIF, index)
    on = ".".join(map(str, raw))
    return Request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, body, "cannot set the default route through", on)


def links(netlink: Netlink) -> list[Link]:
    """All links of the socket's namespace."""
    answers = netlink.ask(RTM_GETLINK, _IFINFO.pack(0, 0, 0, 0, 0), NLM_F_DUMP, "cannot list the links")
    return [_link(answer) for answer in answers]


def find(netlink: Netlink, name: str) -> Link | None:
    """The link of that name in the socket's namespace, which need not be the caller's; None when there is
    none.
    """
    try:
        answers = netlink.ask(RTM_GETLINK, _IFINFO.pack(0, 0, 0, 0, 0) + text(IFLA_IFNAME, name))
    except NetlinkFailed as error:
        if error.number == 19:  # ENODEV
            return None
        raise
    return _link(answers[0])


def _link(answer: bytes) -> Link:
    _, _, index, flags, _ = _IFINFO.unpack_from(answer)
    held = dict(attributes(answer[16:]))
    info = dict(attributes(held.get(IFLA_LINKINFO, b"")))
    master = struct.unpack("=I", held.get(IFLA_MASTER, bytes(4)))[0]
    mac = held.get(IFLA_ADDRESS, b"").hex(":")
    return Link(
        index,
        _string(held.get(IFLA_IFNAME, b"")),
        master,
        bool(flags & IFF_UP),
        mac,
        _string(info.get(1, b"")),
        _string(held.get(IFLA_IFALIAS, b"")),
    )


def _string(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")
