"""Port forwards of a machine's user network, live: QEMU's own list is the truth."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from host.errors import Failure, InUse, NotFound, Unsupported
from vmm.qemu_argv import hostfwd
from vmm.spec import Forward

if TYPE_CHECKING:
    from vmm.qemu_driver import QemuDriver

# The table of `info usernet` (slirp's slirp_connection_info): protocol[state] fd address port address port
# queues.
_ROW = re.compile(r"(TCP|UDP)\[HOST_FORWARD\]\s+\d+\s+(\S+)\s+(\d+)\s+\S+\s+(\d+)")


def listed(driver: QemuDriver) -> tuple[Forward, ...]:
    """The forwards that QEMU has now."""
    return parse(driver.hmp("info usernet"))


def parse(table: str) -> tuple[Forward, ...]:
    """The forwards in the text of `info usernet`."""
    return tuple(
        Forward(
            protocol=row[1].lower(),
            host_ip="0.0.0.0" if row[2] == "*" else row[2],
            host=int(row[3]),
            guest=int(row[4]),
        )
        for row in _ROW.finditer(table)
    )


def add(driver: QemuDriver, forward: Forward) -> None:
    """Add a forward to the running machine; InUse where the host's port is taken."""
    _need_user_network(driver)
    words = hostfwd(forward.protocol, forward.host_ip, forward.host, forward.guest)
    said = driver.hmp(f"hostfwd_add {driver.netdev(0)} {words}")
    if said:
        raise InUse(
            "cannot forward the port", f"{forward.host_ip}:{forward.host}", said, "choose another host port"
        )


def remove(driver: QemuDriver, forward: Forward) -> None:
    """Take a forward away from the running machine; NotFound where it has none on that port."""
    _need_user_network(driver)
    where = f"{forward.protocol}:{forward.host_ip}:{forward.host}"
    said = driver.hmp(f"hostfwd_remove {driver.netdev(0)} {where}")
    if "removed" not in said:
        raise NotFound("no forward on", where, said, f"vmm port {driver.folder.name} lists them")


def _need_user_network(driver: QemuDriver) -> None:
    if not any(nic.kind == "user" for nic in driver.spec.nics):
        raise Unsupported(
            "no user network in", driver.folder.name, hint="its bridge publishes ports: see vmm network"
        )


def ssh_port(driver: QemuDriver) -> int:
    """The host's port that leads to the guest's sshd, or 0 where none does."""
    try:
        found = [one.host for one in listed(driver) if one.guest == 22 and one.protocol == "tcp"]
    except Failure:
        return 0
    return found[0] if found else 0
