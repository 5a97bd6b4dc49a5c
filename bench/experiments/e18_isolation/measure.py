"""Probes that are harmless where they succeed; each is 1 where the thing could be done."""

from __future__ import annotations

from bench.core import workload
from bench.core.target import Cell, Parts, Target

BODY = """
can() { name=$1; shift; if "$@" >/dev/null 2>&1; then echo can_$name=1; else echo can_$name=0; fi; }
mkdir -p /probe
can mount_proc mount -t proc none /probe
umount /probe 2>/dev/null
can mount_tmpfs mount -t tmpfs none /probe
umount /probe 2>/dev/null
can make_device mknod /probe/null c 1 3
can set_hostname hostname probed
can read_kernel_log dmesg
can change_owner chown 1234 /probe
can write_sysctl sh -c 'echo $(cat /proc/sys/vm/swappiness) > /proc/sys/vm/swappiness'
echo processes_seen=$(ls -d /proc/[0-9]* 2>/dev/null | wc -l)
echo links_seen=$(ls /sys/class/net 2>/dev/null | wc -l)
"""


def measure(target: Target, cell: Cell) -> Parts:
    """One value a probe. The chroot of `process` shares the host's name: it is put back."""
    if target.name == "process":
        body = BODY.replace("can set_hostname hostname probed\n", 'can set_hostname hostname "$(hostname)"\n')
        return workload.script(target, cell, body)
    return workload.script(target, cell, BODY)
