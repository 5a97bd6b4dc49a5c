"""The name server and DHCP server of one network: dnsmasq, watching two folders of ours.

Why dnsmasq and not hosts files alone: machines need DHCP and cannot have files of theirs rewritten, and
containers with a read-only root neither. It reads `names/` and `dhcp/` through inotify, so that a member
that comes or goes costs one small file and no signal.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from host.errors import DeadlinePassed
from host.linux.net import netlink
from host.linux.net.addresses import Subnet, told


def plan(folder: Path, bridge: str, subnet: Subnet, internal: bool) -> list[str]:
    """The command line of the server (dnsmasq(8)).

    It answers on the bridge only, forwards no bare name (an AAAA question for a member must not become an
    upstream's NXDOMAIN) and remembers no absence.
    """
    netmask = told(0xFFFFFFFF << (32 - subnet.prefix) & 0xFFFFFFFF)
    argv = [
        "dnsmasq",
        "--conf-file=/dev/null",
        "--user=nobody",
        f"--interface={bridge}",
        "--except-interface=lo",
    ]
    argv += [
        "--bind-interfaces",
        "--no-hosts",
        f"--hostsdir={folder}/names",
        "--domain-needed",
        "--bogus-priv",
    ]
    argv += ["--no-negcache", "--local-ttl=1", f"--dhcp-range={told(subnet.base)},static,{netmask},12h"]
    argv += [f"--dhcp-hostsdir={folder}/dhcp", "--dhcp-authoritative", "--no-ping"]
    argv += [f"--dhcp-leasefile={folder}/dhcp.leases", f"--pid-file={folder}/dnsmasq.pid"]
    argv += [f"--log-facility={folder}/dnsmasq.log"]
    return [*argv, "--no-resolv"] if internal else argv


def running(folder: Path) -> int:
    """The server's pid, or 0: the pid file is believed only where that process names our folder."""
    try:
        pid = int((folder / "dnsmasq.pid").read_bytes())
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return 0
    return pid if f"--pid-file={folder}/dnsmasq.pid".encode() in words else 0


def start(folder: Path, bridge: str, subnet: Subnet, internal: bool) -> bool:
    """Start the server unless it runs; False where dnsmasq is not installed (addresses work, names do
    not).
    """
    if running(folder):
        return True
    from shutil import which

    from host import commands
    from host.errors import CommandFailed

    if not which("dnsmasq", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin"):
        return False
    argv = plan(folder, bridge, subnet, internal)
    until_s, cleared = time.monotonic() + 2.0, False
    while True:
        try:
            commands.run(argv, "cannot start the name server", timeout_s=20)
            return True
        except CommandFailed as error:
            cleared = bool(stop_orphans()) or cleared
            if "Address already in use" not in error.log or not cleared or time.monotonic() > until_s:
                raise
        time.sleep(0.05)  # a server that was ended closes its sockets after its command line is gone


def stop_orphans() -> list[str]:
    """Stop servers of ours in this network namespace whose bridge is gone; tell which."""
    stopped = []
    for entry in os.listdir("/proc"):
        words = _server_words(entry) if entry.isdigit() else []
        if words and _orphaned(entry, words):
            _end(int(entry), words)
            stopped.append(f"name server {entry} of a network that is gone")
    return stopped


def _end(pid: int, words: list[str]) -> None:
    kill(pid, 5.0, lambda: _server_words(str(pid)) == words)


def _server_words(pid: str) -> list[str]:
    """The words of a dnsmasq that `plan` started, else none."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []
    ours = words[0].endswith("dnsmasq") and any(_is_pid_file(word) for word in words)
    return words if ours else []


def _is_pid_file(word: str) -> bool:
    return word.startswith("--pid-file=") and "/.net/" in word and word.endswith("/dnsmasq.pid")


def _orphaned(pid: str, words: list[str]) -> bool:
    """Whether its bridge is gone; judged in its own network namespace only, another's is not ours to see."""
    try:
        if os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net"):
            return False
    except OSError:
        return False
    bridge = next((word.partition("=")[2] for word in words if word.startswith("--interface=")), "")
    return not netlink.index_of(bridge)


def stop(folder: Path, deadline_s: float = 5.0) -> None:
    """Stop the server and wait until it is gone; SIGKILL half way."""
    pid = running(folder)
    if pid:
        kill(pid, deadline_s, lambda: running(folder) == pid)
    for name in ("dnsmasq.pid", "dhcp.leases", "dnsmasq.log"):
        (folder / name).unlink(missing_ok=True)


def kill(pid: int, deadline_s: float, lives: object) -> None:
    """SIGTERM, then SIGKILL at half of the deadline, until `lives()` says no; DeadlinePassed after it."""
    assert callable(lives)
    began = time.monotonic()
    sent = signal.SIGTERM
    _signal(pid, sent)
    while lives():
        waited_s = time.monotonic() - began
        if waited_s > deadline_s:
            raise DeadlinePassed("cannot stop", f"process {pid}", f"it lives {deadline_s:g} s after SIGKILL")
        if waited_s > deadline_s / 2 and sent is signal.SIGTERM:
            sent = signal.SIGKILL
            _signal(pid, sent)
        time.sleep(0.002)


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
