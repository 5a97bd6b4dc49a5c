"""Clones of a booted Debian: each has a name, a machine-id, a host key and random bytes of its own."""

import subprocess
import sys
import time
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
    """The host key that sshd serves on a port of this host; it may just be starting anew."""
    words = ["ssh-keyscan", "-T", "10", "-t", "ed25519", "-p", str(port), "127.0.0.1"]
    for _ in range(50):
        told = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False).stdout
        keys = [line.split()[-1] for line in told.splitlines() if not line.startswith("#")]
        if keys:
            return keys[0]
        time.sleep(0.1)
    raise AssertionError(f"no key was served on port {port}")


def test_three_clones_of_a_booted_debian(home: Path) -> None:
    need("qemu", "kernel", "guest-helper", "mmdebstrap", "root", "sshd")
    home.parent.parent.chmod(0o711)
    home.parent.chmod(0o711)
    vmm("template", "create", "--accel", "tcg", "deb", "debian", "/sbin/init")
    names = ("one", "two", "three")
    look = ("sh", "-c", "hostname; cat /etc/machine-id; cut -d' ' -f2 /etc/ssh/ssh_host_*_key.pub")
    random = ("sh", "-c", "od -An -N16 -tx1 /dev/urandom")
    try:
        for name in names:
            vmm("run", "--vm", "-d", "--name", name, "-p", "22", "--from", "deb")
        told = [[*vmm("exec", name, *look).split("\n"), vmm("exec", name, *random)] for name in names]
        for position, what in enumerate(("host name", "machine-id", "host key")):
            assert len({lines[position] for lines in told}) == 3, what
        assert len({lines[-1] for lines in told}) == 3
        assert [lines[0] for lines in told] == list(names)
        for name, lines in zip(names, told, strict=True):
            port = int(vmm("port", name, "22").split(":")[-1])
            assert served_key(port) == lines[2]  # what it serves is its own, not the template's
    finally:
        for name in names:
            subprocess.run(
                [sys.executable, "-m", "cli.main", "rm", "-f", name], capture_output=True, check=False
            )
