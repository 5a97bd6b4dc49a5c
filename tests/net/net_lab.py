"""A process in a network namespace of its own, which plays a container."""

from __future__ import annotations

import os
import subprocess
import sys

SERVER = """
import socket, sys
port, answer, kind = int(sys.argv[1]), sys.argv[2].encode(), sys.argv[3]
if kind == "udp":
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("", port))
    while True:
        server.sendto(answer, server.recvfrom(100)[1])
server = socket.create_server(("", port))
while True:
    client = server.accept()[0]
    client.send(answer)
    client.close()
"""


class Member:
    """A process in a network namespace of its own, which plays a container."""

    def __init__(self) -> None:
        argv = ["unshare", "-n", "busybox", "sh", "-c", "echo; exec cat"]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.process.stdout.read(1)
        self.fd = os.open(f"/proc/{self.process.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def argv(self, *words: str) -> list[str]:
        return ["nsenter", "-n", "-t", str(self.process.pid), *words]

    def run(self, *words: str, timeout_s: float = 10) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(*words), capture_output=True, text=True, timeout=timeout_s, check=False
        )

    def serve(self, port: int, answer: str = "hello", udp: bool = False) -> subprocess.Popen[bytes]:
        """A server that sends `answer` to whoever connects (or sends it a datagram)."""
        return subprocess.Popen(
            self.argv(sys.executable, "-ISc", SERVER, str(port), answer, "udp" if udp else "tcp")
        )

    def die(self) -> None:
        """Kill -9, and let go of the namespace."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1
        self.process.kill()
        self.process.communicate()
