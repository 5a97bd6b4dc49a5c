"""IPv4 addresses as numbers, subnets, and the choice of a free one; `ipaddress` would cost 3 ms on each
start.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterable

from host.errors import HostUnfit, Usage
from host.typing import NamedTuple

# A bridge holds 1024 ports (BR_MAX_PORTS), so a /22 is as large as a network can use.
POOL_BASE, POOL_PREFIX, CHOSEN_PREFIX = 0x0AD50000, 16, 22  # 10.213.0.0/16 in pieces of /22


class Subnet(NamedTuple):
    """An IPv4 subnet: `base` in host order, `prefix` in bits."""

    base: int
    prefix: int

    @property
    def size(self) -> int:
        """How many addresses it spans, its own and its broadcast address included."""
        return 1 << (32 - self.prefix)

    @property
    def gateway(self) -> int:
        """The first address after the subnet's own: our bridge's."""
        return self.base + 1

    def holds(self, ip: int) -> bool:
        """Whether a member may have this address: inside, and neither base, gateway nor broadcast."""
        return self.base + 1 < ip < self.base + self.size - 1

    def meets(self, other: Subnet) -> bool:
        """Whether the two share an address."""
        return self.base < other.base + other.size and other.base < self.base + self.size

    def __str__(self) -> str:
        return f"{told(self.base)}/{self.prefix}"


def told(ip: int) -> str:
    """The dotted form of an address."""
    return f"{ip >> 24}.{ip >> 16 & 255}.{ip >> 8 & 255}.{ip & 255}"


def parse(text: str, what: str = "address") -> int:
    """The number of a dotted address; Usage for anything else."""
    parts = text.split(".")
    if len(parts) != 4 or not all(part.isascii() and part.isdigit() and int(part) < 256 for part in parts):
        raise Usage(f"cannot read the {what}", repr(text), "not an IPv4 address", "write it as 10.1.2.3")
    return int.from_bytes(bytes(map(int, parts)), "big")


def parse_subnet(text: str) -> Subnet:
    """The subnet of `10.1.2.0/24`; Usage where bits of the host part are set or fewer than two members
    fit.
    """
    left, _, right = text.partition("/")
    base = parse(left, "subnet")
    if not (right.isascii() and right.isdigit() and 8 <= int(right) <= 29):
        raise Usage(
            "cannot read the subnet", repr(text), "no prefix of 8 to 29 bits", "write it as 10.1.2.0/24"
        )
    subnet = Subnet(base, int(right))
    if base % subnet.size:
        at = told(base - base % subnet.size)
        raise Usage("cannot read the subnet", repr(text), "bits of the host part are set", f"{at}/{right}")
    return subnet


def free_subnet(taken: Iterable[Subnet]) -> Subnet:
    """The first piece of our pool that meets none of the taken ones; HostUnfit when the pool is used up."""
    held = list(taken)
    for base in range(POOL_BASE, POOL_BASE + (1 << (32 - POOL_PREFIX)), 1 << (32 - CHOSEN_PREFIX)):
        piece = Subnet(base, CHOSEN_PREFIX)
        if not any(piece.meets(other) for other in held):
            return piece
    pool = Subnet(POOL_BASE, POOL_PREFIX)
    raise HostUnfit("cannot choose a subnet", str(pool), "the pool is used up", "name one with --subnet")


def routed(text: str) -> list[tuple[str, Subnet]]:
    """The (device, subnet) pairs of /proc/net/route, default routes left out (proc_net(5): addresses are
    hex).
    """
    found = []
    for line in text.splitlines()[1:]:
        words = line.split()
        base = int.from_bytes(bytes.fromhex(words[1]), "little")
        mask = int.from_bytes(bytes.fromhex(words[7]), "little")
        if mask:
            found.append((words[0], Subnet(base, mask.bit_count())))
    return found


def choose(subnet: Subnet, member: str, taken: Collection[int]) -> int:
    """A free address for a member: its name's own place if that is free, so that a name tends to keep its
    address.

    Raises HostUnfit when the subnet is full.
    """
    room = subnet.size - 3
    start = zlib.crc32(member.encode()) % room
    for step in range(room):
        ip = subnet.base + 2 + (start + step) % room
        if ip not in taken:
            return ip
    raise HostUnfit(
        "cannot find a free address", str(subnet), f"all {room} are leased", "use another --network"
    )


def mac_for(ip: int) -> str:
    """A locally administered MAC from the address: an address that is used again keeps its ARP entries
    true.
    """
    return bytes([0x02, 0x76, *ip.to_bytes(4, "big")]).hex(":")


def parse_mac(text: str) -> bytes:
    """The six bytes of a unicast MAC; Usage for anything else."""
    try:
        raw = bytes.fromhex(text.replace(":", "")) if text.count(":") == 5 else b""
    except ValueError:
        raw = b""
    if len(raw) != 6 or raw[0] & 1:
        raise Usage("cannot read the MAC", repr(text), "not a unicast MAC", "write it as 02:00:00:00:00:01")
    return raw
