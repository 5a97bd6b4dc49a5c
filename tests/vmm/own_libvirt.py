"""A libvirt of the test's own: daemons in a mount namespace with their own sockets and definitions.

Killing the host's libvirtd would pull it from under everybody else's machines.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from commandline import CommandLine

# /run is the namespace's own, for the daemons' pid files and sockets; ours lie in /run/vmm, everybody's.
_ENTER = """
mkdir -p /run/vmm; old=$(mktemp -d); mount --bind /run $old
mount -t tmpfs -o mode=755 tmpfs /run; mkdir /run/vmm; mount --bind $old/vmm /run/vmm; umount $old; rmdir $old
for own in /etc/libvirt/qemu /etc/libvirt/storage /var/lib/libvirt; do
    mkdir -p $own; mount -t tmpfs -o mode=755 tmpfs $own
done
echo up; exec sleep 3600
"""


class Libvirt(CommandLine):
    """`vmm` in one home, and a libvirt that nobody else sees."""

    def __init__(self, home: Path, holder: int) -> None:
        super().__init__(home)
        self.holder = holder

    def argv(self, *words: str) -> list[str]:
        """The words of the process that `vmm WORDS` is, in the namespace."""
        return [*self.enter(), *super().argv(*words)]

    def enter(self) -> list[str]:
        """The words that take a command into the namespace."""
        return ["nsenter", f"--mount=/proc/{self.holder}/ns/mnt", f"--wd={os.getcwd()}", "--"]

    def virsh(self, *words: str) -> str:
        """What virsh says there."""
        argv = [*self.enter(), "virsh", "-q", "-c", "qemu:///system", *words]
        return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout

    def start(self) -> None:
        """Start the daemons, and wait until they answer."""
        for daemon in ("virtlogd", "libvirtd"):
            subprocess.run([*self.enter(), daemon, "-d"], capture_output=True, timeout=30, check=False)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(subprocess.CalledProcessError):
                self.virsh("list")
                return
            time.sleep(0.1)
        raise AssertionError("libvirtd did not come up")

    def pid_of(self, daemon: str) -> int:
        """The pid of a daemon of ours, or 0."""
        argv = [*self.enter(), "cat", f"/run/{daemon}.pid"]
        said = subprocess.run(argv, capture_output=True, text=True, check=False).stdout.split()
        for pid in map(int, said):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{pid}/ns/mnt") == os.readlink(f"/proc/{self.holder}/ns/mnt"):
                    return pid
        return 0

    def kill(self, daemon: str, number: int = signal.SIGKILL) -> None:
        """Kill a daemon and see it gone."""
        pid = self.pid_of(daemon)
        if not pid:
            return
        os.kill(pid, number)
        deadline = time.monotonic() + 20
        while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
            time.sleep(0.02)


@contextmanager
def own_libvirt(home: Path) -> Iterator[Libvirt]:
    """Daemons of the test's own, and nothing of them afterwards."""
    words = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", _ENTER]
    holder = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    there = Libvirt(home, holder.pid)
    try:
        there.start()
        yield there
    finally:
        for daemon in ("libvirtd", "virtlogd"):
            there.kill(daemon, signal.SIGTERM)
        holder.kill()
        holder.communicate()
