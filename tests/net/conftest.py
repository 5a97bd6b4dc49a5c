"""A network namespace for the test itself, and namespaces that play members: the host's network stays
untouched.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from capabilities import need
from net_lab import Member

from host.linux import syscalls
from host.linux.net import names, netlink, networks


@pytest.fixture
def own_network() -> Iterator[None]:
    """The test runs in a new network namespace with lo up."""
    need("root", "nft", "dnsmasq", "busybox")
    before = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    syscalls.unshare(syscalls.CLONE_NEWNET)
    try:
        with netlink.Netlink() as socket:
            socket.send([netlink.up(1, "lo")])
        yield
    finally:
        syscalls.setns(before, syscalls.CLONE_NEWNET)
        os.close(before)


@pytest.fixture
def lab(home: Path, own_network: None) -> Iterator[Path]:
    """A home in the namespace; its name servers go with it."""
    yield home
    for network in networks.listing(home):
        names.stop(network.folder)


@pytest.fixture
def member() -> Iterator[Callable[[], Member]]:
    """Make members; all die with the test."""
    made: list[Member] = []

    def make() -> Member:
        made.append(Member())
        return made[-1]

    yield make
    for one in made:
        one.die()


@pytest.fixture
def ended() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes put in this list are killed with the test."""
    running: list[subprocess.Popen[bytes]] = []
    yield running
    for one in running:
        one.kill()
        one.wait()
