"""A container on its networks: leases, the files of /etc that name it, ports; at its start, and while it
runs.

`spec.network` is the name of a network, or "user": slirp4netns, the only one that a user without root can
have. Networks that `vmm network connect` added stand in `networks.json` of the folder and are joined at
each start.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from containers.spec import ELSEWHERE, ContainerSpec
from host import records
from host.errors import InUse, NotFound, Unsupported, WrongState
from host.typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from host.linux.net import Lease, Port

USER = "user"


def write_etc(run: Path, spec: ContainerSpec) -> None:
    """Make the files of /etc before the start; they are mounted by inode, and filled in once the lease is
    known.
    """
    if not spec.etc_files():
        return
    run.mkdir(parents=True, exist_ok=True)
    hosts = "127.0.0.1 localhost\n::1 localhost ip6-localhost\n"
    resolv = ""
    if spec.network == "host":
        hosts, resolv = _of_host("/etc/hosts"), _of_host("/etc/resolv.conf")
    _fill(run, spec, hosts + _extra_hosts(spec), resolv)


def _fill(run: Path, spec: ContainerSpec, hosts: str, resolv: str) -> None:
    if spec.dns:
        resolv = "".join(f"nameserver {one}\n" for one in spec.dns)
    (run / "hosts").write_text(hosts)
    (run / "resolv.conf").write_text(resolv)
    (run / "hostname").write_text((spec.hostname or spec.name) + "\n")


def _extra_hosts(spec: ContainerSpec) -> str:
    lines = [one.partition(":") for one in spec.extra_hosts]
    return "".join(f"{address}\t{name}\n" for name, _, address in lines)


def _of_host(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def attach(home: Path, folder: Path, run: Path, spec: ContainerSpec, pid: int) -> None:
    """Join the networks with the namespace of `pid`, and tell /etc; all or nothing."""
    try:
        if spec.joins_network():
            lease = _slirp(folder, run, spec, pid) if uses_slirp(spec) else _first(home, folder, spec, pid)
            hosts = lease.hosts_file(spec.hostname or spec.name) + _extra_hosts(spec)
            _fill(run, spec, hosts, lease.resolv_conf())
        for number, one in enumerate(_connected(folder), int(spec.joins_network())):
            _join(home, folder.name, pid, f"eth{number}", one)
    except BaseException:
        detach(home, folder, run, spec)
        raise


def uses_slirp(spec: ContainerSpec) -> bool:
    """Whether slirp4netns carries the traffic: the default network of a user without root is that, too."""
    if os.geteuid() and spec.network not in (USER, "bridge"):
        hint = "without root: --network user (slirp4netns), or none"
        raise Unsupported("cannot join the network", spec.network, "bridges belong to root", hint)
    return spec.network == USER or os.geteuid() != 0


def ports_of(spec: ContainerSpec) -> tuple[Port, ...]:
    """The published ports of the spec."""
    from host.linux import net

    return tuple(net.Port(*one) for one in spec.ports)


def _slirp(folder: Path, run: Path, spec: ContainerSpec, pid: int) -> Lease:
    from host.linux import net

    return net.slirp(folder.name, pid, run, ports_of(spec))


def _first(home: Path, folder: Path, spec: ContainerSpec, pid: int) -> Lease:
    words = {"network": spec.network, "ip": spec.ip, "aliases": spec.aliases, "ports": ports_of(spec)}
    return _join(home, folder.name, pid, "eth0", words)


def _join(home: Path, member: str, pid: int, interface: str, one: dict[str, Any]) -> Lease:
    from host.linux import net

    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return net.attach(
            home, one["network"], member, fd, interface=interface,
            ip=one.get("ip", ""), aliases=tuple(one.get("aliases", ())), ports=one.get("ports", ()),
        )  # fmt: skip
    finally:
        os.close(fd)


def detach(home: Path, folder: Path, run: Path, spec: ContainerSpec) -> None:
    """Give the leases back; harmless where there were none."""
    from host.linux import net

    if os.geteuid() != 0 or spec.network == USER:
        net.unslirp(run)
    if os.geteuid() == 0:
        net.detach_all(home, folder.name)


def _connected(folder: Path) -> list[dict[str, Any]]:
    try:
        return list(records.read(folder / "networks.json")["networks"])
    except FileNotFoundError:
        return []


def connect(
    home: Path,
    folder: Path,
    spec: ContainerSpec,
    pid: int | None,
    network: str,
    ip: str,
    aliases: Sequence[str],
) -> None:
    """Add a network: at once where the container runs (`pid`), and at each later start.

    Raises InUse where it is on that network already, Unsupported where it shares a namespace, NotFound.
    """
    from host.linux.net import networks

    networks.load(home, network)
    if spec.network == "host" or spec.network.startswith(ELSEWHERE):
        raise Unsupported("cannot connect", folder.name, "its network namespace belongs to somebody else")
    known = _connected(folder)
    if network in (spec.network, *(one["network"] for one in known)):
        raise InUse("cannot connect", folder.name, f"it is on the network {network} already")
    one = {"network": network, "ip": ip, "aliases": list(aliases)}
    if pid is not None:
        _join(home, folder.name, pid, _free_interface(pid), one)
    records.write(folder / "networks.json", {"networks": [*known, one]})


def _free_interface(pid: int) -> str:
    taken = Path(f"/proc/{pid}/net/dev").read_text()
    return next(f"eth{number}" for number in range(100) if f"eth{number}:" not in taken)


def disconnect(home: Path, folder: Path, spec: ContainerSpec, network: str) -> None:
    """Take a network away that `connect` added, at once and for later starts; NotFound for any other."""
    from host.linux import net

    known = _connected(folder)
    left = [one for one in known if one["network"] != network]
    if len(left) == len(known):
        why = "it was born on it" if network == spec.network else f"it is not on the network {network}"
        raise NotFound("cannot disconnect", folder.name, why, "vmm network inspect tells who is on it")
    net.detach(home, network, folder.name, unlink=True)
    if left:
        records.write(folder / "networks.json", {"networks": left})
    else:
        (folder / "networks.json").unlink()


def publish(
    home: Path, folder: Path, run: Path, spec: ContainerSpec, wanted: Sequence[Port]
) -> tuple[Port, ...]:
    """Publish more ports of a running container; the ports with the numbers that were chosen."""
    from host.linux import net

    if not spec.joins_network():
        raise WrongState("cannot publish a port of", folder.name, f"--network {spec.network} has no address")
    if uses_slirp(spec):
        from host.linux.net import rootless

        return rootless.add_ports(run, wanted)
    lease = net.publish(home, spec.network, folder.name, wanted)
    return lease.ports[len(lease.ports) - len(wanted) :]


def unpublish(home: Path, folder: Path, run: Path, spec: ContainerSpec, gone: Sequence[Port]) -> None:
    """Take published ports of a running container back."""
    from host.linux import net

    if uses_slirp(spec):
        from host.linux.net import rootless

        rootless.remove_ports(run, gone)
    else:
        net.unpublish(home, spec.network, folder.name, gone)


def published(home: Path, folder: Path, spec: ContainerSpec) -> list[tuple[str, int, int, str]]:
    """(host address, host port, port inside, protocol) of each published port, chosen numbers included."""
    if os.geteuid() == 0 and spec.joins_network() and spec.network != USER:
        from host.linux import net

        leases = net.leases_of(home, folder.name)
        if leases:
            found = [port for lease in leases for port in lease.ports]
            return [(one.host_ip, one.host, one.guest, one.protocol) for one in found]
    return [*spec.ports]
