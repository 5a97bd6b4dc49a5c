"""Clones of a booted Debian: each has a name, a machine-id, a host key and random bytes of its own."""

import subprocess
import sys
from pathlib import Path

import pytest
from capabilities import need

pytestmark = [pytest.mark.machine, pytest.mark.slow, pytest.mark.timeout(900)]


def vmm(*words: str) -> str:
    line = [sys.executable, "-m", "cli.main", *words]
    done = subprocess.run(line, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def served_key(port: int) -> str:
    """The host key that sshd serves on a port of this host: at the first try, for `run` has waited for it."""
    words = ["ssh-keyscan", "-T", "30", "-t", "ed25519", "-p", str(port), "127.0.0.1"]
    told = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    (key,) = [line.split()[-1] for line in told.stdout.splitlines() if not line.startswith("#")] or [""]
    assert key, told.stderr
    return key


LOOK = (
    "hostname; cat /etc/machine-id; od -An -N16 -tx1 /dev/urandom; cut -d' ' -f2 /etc/ssh/ssh_host_*_key.pub"
)


def test_twenty_clones_of_a_booted_debian(home: Path) -> None:
    """No two have a name, a machine-id, a host key or random bytes in common; what is served is their own."""
    need("qemu", "kernel", "guest-helper", "mmdebstrap", "root", "sshd")
    home.parent.parent.chmod(0o711)
    home.parent.chmod(0o711)
    vmm("template", "create", "--accel", "tcg", "deb", "debian", "/sbin/init")
    told: list[list[str]] = []
    for number in range(20):
        name = f"c{number}"
        try:
            vmm("run", "--vm", "-d", "--name", name, "-p", "22", "--from", "deb")
            key = served_key(int(vmm("port", name, "22").split(":")[-1]))
            lines = vmm("exec", name, "sh", "-c", LOOK).rstrip("\n").split("\n")
            assert lines[0] == name
            assert lines[3:] == [key]  # one key only, and it is served
            told.append(lines)
        finally:
            words = [sys.executable, "-m", "cli.main", "rm", "-f", name]
            subprocess.run(words, capture_output=True, check=False)
    for position, what in enumerate(("host name", "machine-id", "random bytes", "host key")):
        assert len({lines[position] for lines in told}) == 20, what
