"""Leases: who has which address on which network; one small file each, in the run directory that dies with
the boot.

`leases/IP` is the record, `members/NAME` a link to it: both are made with one system call that fails when
somebody was there first, so neither an address nor a name is ever given twice.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from host import records
from host.errors import BadData
from host.linux.net import netlink
from host.linux.net.ports import Port
from host.typing import NamedTuple


class Lease(NamedTuple):
    """One member's place on a network.

    `link` is the host's end: a veth, a TAP, or the name libvirt shall give to its TAP; `interface` the
    member's end. `dns` is empty where no name server answers; kind is "veth", "tap", "reserved" or "slirp".
    """

    network: str
    member: str
    kind: str
    ip: str
    prefix: int
    gateway: str
    mac: str
    bridge: str
    link: str
    interface: str = "eth0"
    dns: str = ""
    aliases: tuple[str, ...] = ()
    ports: tuple[Port, ...] = ()

    def to_record(self) -> records.Record:
        """The lease as JSON holds it."""
        return self._asdict() | {"aliases": list(self.aliases), "ports": [list(port) for port in self.ports]}

    def with_ports(self, ports: Iterable[Port]) -> Lease:
        """The same lease with other published ports."""
        return self._replace(ports=tuple(ports))

    def resolv_conf(self) -> str:
        """The text for the member's /etc/resolv.conf."""
        if self.dns:
            return f"nameserver {self.dns}\n"
        return _host_resolvers()

    def hosts_file(self, hostname: str, extra: Iterable[tuple[str, str]] = ()) -> str:
        """The text for the member's /etc/hosts: itself, then (name, address) pairs of --add-host and
        --link.
        """
        lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"]
        own = " ".join(dict.fromkeys((hostname, self.member, *self.aliases)))
        lines.append(f"{self.ip}\t{own}")
        lines += [f"{address}\t{name}" for name, address in extra]
        return "\n".join(lines) + "\n"

    def alive(self) -> bool:
        """Whether the member still holds it: its link is there; a reserved one lives until it is released."""
        return self.kind == "reserved" or netlink.index_of(self.link) > 0


def from_record(record: records.Record) -> Lease:
    """The lease of a record; BadData where a field is missing."""
    try:
        held = dict(record)
        held["aliases"] = tuple(held["aliases"])
        held["ports"] = tuple(Port(*port) for port in held["ports"])
        return Lease(**held)
    except (KeyError, TypeError) as error:
        raise BadData("cannot read the lease", str(record.get("member", "")), str(error)) from None


def _host_resolvers() -> str:
    """The host's resolv.conf without loopback servers, which a namespace of its own cannot reach."""
    try:
        lines = Path("/etc/resolv.conf").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return "".join(
        f"{line}\n" for line in lines if not line.startswith(("nameserver 127.", "nameserver ::1"))
    )


class Leases:
    """The lease files of one network, under `<run>/.net/<network>`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make_folders(self) -> None:
        """Make the folders that the leases and the name server read; the latter drops root, so they are
        open.
        """
        for name in ("leases", "members", "names", "dhcp"):
            (self.folder / name).mkdir(mode=0o755, parents=True, exist_ok=True)

    def taken(self) -> set[str]:
        """The leased addresses."""
        try:
            return {name for name in os.listdir(self.folder / "leases") if not name.startswith(".")}
        except FileNotFoundError:
            return set()

    def at(self, ip: str) -> Lease | None:
        """The lease of an address."""
        try:
            return from_record(records.read(self.folder / "leases" / ip))
        except FileNotFoundError:
            return None

    def of(self, member: str) -> Lease | None:
        """The lease of a member."""
        try:
            ip = os.readlink(self.folder / "members" / member)
        except FileNotFoundError:
            return None
        lease = self.at(ip)
        if lease is None or lease.member != member:  # killed between the link and the record
            os.unlink(self.folder / "members" / member)
            return None
        return lease

    def all(self) -> list[Lease]:
        """All leases, by address."""
        return [lease for ip in sorted(self.taken()) if (lease := self.at(ip))]

    def claim(self, lease: Lease) -> None:
        """Write a new lease: record first, then the member's name, so that a name never points to
        nobody's.
        """
        self.write(lease)
        os.symlink(lease.ip, self.folder / "members" / lease.member)

    def write(self, lease: Lease) -> None:
        """Replace the record of a lease."""
        records.write(self.folder / "leases" / lease.ip, lease.to_record(), durable=False)

    def name(self, lease: Lease) -> None:
        """Tell the name server: it watches the folders, so a file more or less is all it needs."""
        names = " ".join(dict.fromkeys((lease.member, *lease.aliases)))
        if lease.kind in ("tap", "reserved"):
            _place(self.folder / "dhcp" / lease.ip, f"{lease.mac},{lease.ip},{lease.member}\n")
        _place(self.folder / "names" / lease.ip, f"{lease.ip} {names}\n")

    def forget(self, lease: Lease) -> None:
        """Remove what is written of a lease, the record last: while it stands the address is not given
        away.
        """
        for path in (
            f"names/{lease.ip}",
            f"dhcp/{lease.ip}",
            f"members/{lease.member}",
            f"leases/{lease.ip}",
        ):
            try:
                os.unlink(self.folder / path)
            except FileNotFoundError:
                pass


def _place(path: Path, text: str) -> None:
    """Write a small file in one write: dnsmasq reads it on close, and ignores names that begin with a dot
    or tilde.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
