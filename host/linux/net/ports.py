"""Published ports: what people write, one Port for each port, and the nft element that carries it."""

from __future__ import annotations

import _socket
import errno
import struct
from collections.abc import Sequence

from host.errors import Failure, InUse, Unsupported, Usage
from host.linux.net import addresses
from host.linux.net.nftables import Element
from host.typing import NamedTuple

PROTOCOLS = {"tcp": 6, "udp": 17}
HERE, ANYWHERE = "127.0.0.1", "0.0.0.0"
_HINT = "write it as [IP:]HOST:GUEST[/udp], 8080:80 or 0.0.0.0:8000-8010:8000-8010"


class Port(NamedTuple):
    """One published port: connections to `host_ip:host` reach `guest` of the instance; host 0 lets us
    choose.
    """

    host_ip: str
    host: int
    guest: int
    protocol: str = "tcp"

    def __str__(self) -> str:
        return f"{self.host_ip}:{self.host}->{self.guest}/{self.protocol}"


def parse_ports(text: str) -> tuple[Port, ...]:
    """The ports of `[IP:][HOST[-HOST]:]GUEST[-GUEST][/tcp|/udp]`, bound to 127.0.0.1 unless told.

    Raises Usage for anything else, Unsupported for IPv6.
    """
    body, _, protocol = text.partition("/")
    protocol = protocol or "tcp"
    if "[" in body or body.count(":") > 2:
        raise Unsupported("cannot publish", repr(text), "only IPv4 addresses are published", _HINT)
    *front, guest = body.split(":")
    host_ip = front[0] if len(front) == 2 else HERE
    if protocol not in PROTOCOLS:
        raise Usage("cannot publish", repr(text), f"no protocol {protocol!r}: tcp or udp", _HINT)
    addresses.parse(host_ip, "address to publish on")
    guests = _range(guest, text)
    hosts = _range(front[-1], text) if front and front[-1] else [0] * len(guests)
    if len(hosts) != len(guests):
        raise Usage(
            "cannot publish", repr(text), f"{len(hosts)} host ports for {len(guests)} guest ports", _HINT
        )
    return tuple(Port(host_ip, at, to, protocol) for at, to in zip(hosts, guests, strict=True))


def _range(text: str, whole: str) -> Sequence[int]:
    first, dash, last = text.partition("-")
    ends = [first, last if dash else first]
    if not all(end.isascii() and end.isdigit() and 0 < int(end) < 65536 for end in ends) or int(
        ends[0]
    ) > int(ends[1]):
        raise Usage("cannot publish", repr(whole), f"{text!r} is no port or range of ports", _HINT)
    return range(int(ends[0]), int(ends[1]) + 1)


def element(port: Port, ip: int) -> Element:
    """The map element that carries a port to the address `ip` (fields padded to four bytes each)."""
    data = struct.pack("!IH2x", ip, port.guest)
    key = struct.pack("!B3xH2x", PROTOCOLS[port.protocol], port.host)
    if port.host_ip == ANYWHERE:
        return Element("ports_any", key, data)
    return Element("ports", struct.pack("!I", addresses.parse(port.host_ip)) + key, data)


def target(one: Element) -> int:
    """The address that an element of `ports` or `ports_any` sends its connections to."""
    return int(struct.unpack_from("!I", one.data)[0])


def probed(port: Port) -> Port:
    """The port with its number chosen, after a bind(2) has shown that no program of the host listens there.

    Raises InUse where one does: a rewriting rule would silently take its connections away.
    """
    kind = _socket.SOCK_STREAM if port.protocol == "tcp" else _socket.SOCK_DGRAM
    probe = _socket.socket(_socket.AF_INET, kind | _socket.SOCK_CLOEXEC)
    try:
        if port.protocol == "tcp":  # else connections in TIME_WAIT make a free port look taken
            probe.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        probe.bind((port.host_ip, port.host))
        return port._replace(host=probe.getsockname()[1])
    except OSError as error:
        raise _unbindable(port, error) from None
    finally:
        probe.close()


def _unbindable(port: Port, error: OSError) -> Failure:
    where = f"{port.host_ip}:{port.host}/{port.protocol}"
    if error.errno == errno.EADDRINUSE:
        return InUse(
            "cannot publish the port", where, "a program of this host listens there", "choose another"
        )
    hint = "name an address of this host" if error.errno == errno.EADDRNOTAVAIL else ""
    return Failure("cannot publish the port", where, error.strerror or str(error), hint)
