"""A container on its network: the lease, the files of /etc that name it, and its ports."""

from __future__ import annotations

import os
from pathlib import Path

from containers.spec import ContainerSpec


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
    _fill(run, spec, hosts + _extra(spec), resolv)


def _fill(run: Path, spec: ContainerSpec, hosts: str, resolv: str) -> None:
    if spec.dns:
        resolv = "".join(f"nameserver {one}\n" for one in spec.dns)
    (run / "hosts").write_text(hosts)
    (run / "resolv.conf").write_text(resolv)
    (run / "hostname").write_text((spec.hostname or spec.name) + "\n")


def _extra(spec: ContainerSpec) -> str:
    lines = [one.partition(":") for one in spec.extra_hosts]
    return "".join(f"{address}\t{name}\n" for name, _, address in lines)


def _of_host(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def attach(home: Path, run: Path, member: str, spec: ContainerSpec, pid: int) -> None:
    """Lease an address, put the container's end of the link into its namespace, and tell /etc."""
    from host.linux import net

    ports = tuple(net.Port(*one) for one in spec.ports)
    if os.geteuid() != 0:
        lease = net.slirp(member, pid, run, ports)
    else:
        fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            lease = net.attach(home, spec.network, member, fd, ip=spec.ip, aliases=spec.aliases, ports=ports)
        finally:
            os.close(fd)
    hosts = lease.hosts_file(spec.hostname or spec.name) + _extra(spec)
    _fill(run, spec, hosts, lease.resolv_conf())


def detach(home: Path, run: Path, member: str, spec: ContainerSpec) -> None:
    """Give the lease back; harmless where there was none."""
    from host.linux import net

    if os.geteuid() != 0:
        net.unslirp(run)
    else:
        net.detach_all(home, member)
