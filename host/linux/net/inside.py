"""Another network namespace, entered for as long as it takes to open a socket there."""

from __future__ import annotations

import os

from host.linux import syscalls
from host.linux.net import netlink
from host.linux.net.netlink import Netlink


def inside(netns_fd: int) -> Netlink:
    """A netlink socket of another namespace: a socket belongs to the namespace that it was made in.

    IPv6 is switched off there first: no router advertisement is taken, no duplicate address detection
    waited for.
    """
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.setns(netns_fd, syscalls.CLONE_NEWNET)
        try:
            _no_inet6()
            return Netlink()
        finally:
            syscalls.setns(own, syscalls.CLONE_NEWNET)
    finally:
        os.close(own)


def _no_inet6() -> None:
    """For links to come; lo keeps ::1. The files of /proc/sys/net are those of the caller's namespace."""
    try:
        fd = os.open("/proc/sys/net/ipv6/conf/default/disable_ipv6", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"1")
        finally:
            os.close(fd)
    except OSError:
        pass  # a kernel without IPv6 has no such file


def loopback_up(netns_fd: int) -> None:
    """Set lo up in a network namespace, 0.2 ms: all that `--network none` has."""
    with inside(netns_fd) as inner:
        inner.send([netlink.up(1, "lo")])
