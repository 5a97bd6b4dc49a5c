"""Rootless networks: one slirp4netns for a namespace, published ports through its API socket
(slirp4netns(1)).

slirp4netns holds the namespace's TAP, so it does not end by itself: `unslirp` ends it, and a pid file tells
the next command which process that is.
"""

from __future__ import annotations

import _socket
import json
import os
import select
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from host import paths
from host.commands import missing
from host.errors import DeadlinePassed, Failure, HostUnfit, InUse
from host.linux.net import names, ports
from host.linux.net.leases import Lease
from host.linux.net.ports import Port

# slirp4netns' own addresses, unless --cidr says otherwise.
ADDRESS, GATEWAY, RESOLVER, PREFIX = "10.0.2.100", "10.0.2.2", "10.0.2.3", 24
MTU = 65520
READY_S = 10.0


def plan(pid: int, run: Path, ready_fd: int = 3) -> list[str]:
    """The command line: the namespace of `pid`, no way to the host's loopback, ports by the API socket."""
    argv = ["slirp4netns", "--configure", f"--mtu={MTU}", "--disable-host-loopback", f"--ready-fd={ready_fd}"]
    return [*argv, f"--api-socket={run}/slirp.sock", f"--userns-path=/proc/{pid}/ns/user", str(pid), "eth0"]


def slirp(member: str, pid: int, run: Path, published: Sequence[Port] = ()) -> Lease:
    """Give the network namespace of `pid` a way out and publish ports; returns once it is configured.

    Raises HostUnfit without slirp4netns, InUse for a port that is taken, Failure in slirp4netns' words.
    `run` is the member's run directory, short enough for a socket's path (108 bytes).
    """
    unslirp(run)
    paths.ensure(run)
    try:
        child = _spawn(pid, run)
        (run / "slirp.pid").write_text(str(child))
        chosen = [_publish(run, ports.probed(port)) for port in published]
    except BaseException:
        unslirp(run)
        raise
    place = (ADDRESS, PREFIX, GATEWAY, "", "", "", "eth0", RESOLVER, (), tuple(chosen))
    return Lease("user", member, "slirp", *place)


def _spawn(pid: int, run: Path) -> int:
    import subprocess

    if not Path("/proc", str(pid), "ns/user").exists():
        raise Failure("cannot give a network to", f"process {pid}", "it has ended")
    ready, told = os.pipe()
    log = os.open(run / "slirp.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        child = subprocess.Popen(
            plan(pid, run, told),
            pass_fds=[told],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    except FileNotFoundError:
        os.close(ready)
        raise missing("slirp4netns", "cannot give a rootless container a network") from None
    finally:
        os.close(told)
        os.close(log)
    try:
        _wait_ready(ready, run)
    except BaseException:
        child.kill()
        child.wait()
        raise
    finally:
        os.close(ready)
    child.returncode = 0  # it outlives us: no ResourceWarning, no wait
    return child.pid


def _wait_ready(ready: int, run: Path) -> None:
    if not select.select([ready], [], [], READY_S)[0]:
        raise DeadlinePassed("cannot start slirp4netns", why=f"it was not ready after {READY_S:g} s")
    if os.read(ready, 1) != b"1":
        words = (run / "slirp.log").read_text(errors="replace").strip()
        if "/dev/net/tun" in words:
            raise HostUnfit(
                "cannot start slirp4netns", why=words, hint="as root: chmod 666 /dev/net/tun, as udev does"
            )
        raise Failure("cannot start slirp4netns", why=words or "it ended without a word")


def _publish(run: Path, port: Port) -> Port:
    arguments = {
        "proto": port.protocol,
        "host_addr": port.host_ip,
        "host_port": port.host,
        "guest_port": port.guest,
    }
    answer = _api(run, {"execute": "add_hostfwd", "arguments": arguments})
    if "error" in answer:
        raise InUse("cannot publish the port", str(port), str(answer["error"].get("desc", answer["error"])))
    return port


def add_ports(run: Path, published: Sequence[Port]) -> tuple[Port, ...]:
    """Publish more ports of a running namespace."""
    return tuple(_publish(run, ports.probed(port)) for port in published)


def remove_ports(run: Path, gone: Sequence[Port]) -> None:
    """Take published ports back."""
    listed = _api(run, {"execute": "list_hostfwd"})
    for entry in listed.get("return", listed)["entries"]:  # its manual shows a wrapper that 1.2 does not send
        here = Port(entry["host_addr"], entry["host_port"], entry["guest_port"], entry["proto"])
        if here in gone:
            _api(run, {"execute": "remove_hostfwd", "arguments": {"id": entry["id"]}})


def _api(run: Path, request: dict[str, Any]) -> dict[str, Any]:
    """One request, one answer, then it hangs up (slirp4netns(1), API SOCKET)."""
    with _socket_at(run / "slirp.sock") as socket:
        socket.send(json.dumps(request).encode())
        socket.shutdown(_socket.SHUT_WR)
        data = b""
        while chunk := socket.recv(65536):
            data += chunk
    answer: dict[str, Any] = json.loads(data)
    return answer


class _socket_at:
    """A connected UNIX socket with a deadline, closed on every path."""

    def __init__(self, path: Path) -> None:
        self.socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        self.path = path

    def __enter__(self) -> _socket.socket:
        self.socket.settimeout(5.0)
        deadline = time.monotonic() + 2.0
        while True:
            try:
                self.socket.connect(str(self.path))
                return self.socket
            except OSError as error:
                if time.monotonic() > deadline:  # the socket appears a moment after readiness
                    self.socket.close()
                    raise Failure("cannot reach slirp4netns", str(self.path), str(error)) from None
                time.sleep(0.005)

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def running(run: Path) -> int:
    """The pid of the slirp4netns of this run directory, or 0."""
    try:
        pid = int((run / "slirp.pid").read_text())
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return 0
    return pid if f"--api-socket={run}/slirp.sock".encode() in words else 0


def unslirp(run: Path) -> None:
    """End the slirp4netns of this run directory, if one runs; idempotent."""
    pid = running(run)
    if pid:
        names.kill(pid, 5.0, lambda: running(run) == pid)
    for name in ("slirp.pid", "slirp.sock", "slirp.log"):
        (run / name).unlink(missing_ok=True)
