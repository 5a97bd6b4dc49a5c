"""vmm clone --live: both machines go on from one moment, each as itself."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from capabilities import need

pytestmark = pytest.mark.machine
COUNTS = (
    "echo mem >/dev/shm/m; echo disk >/d; i=0; while :; do i=$((i+1)); echo $i >/dev/shm/i; sleep 0.2; done"
)


def vmm(*words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "cli.main", *words]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("boot", [(), ("--boot", "microvm")], ids=["of a clone", "of a booted one"])
def test_both_go_on(home: Path, boot: tuple[str, ...]) -> None:
    need("qemu", "kernel", "guest-helper", "busybox")
    home.parent.parent.chmod(0o711)
    home.parent.chmod(0o711)
    asked = ("--accel", "tcg", "--network", "none", "--memory", "128M", "tiny", "sh", "-c", COUNTS)
    try:
        made = vmm("run", "--vm", "-d", "--name", "one", *boot, *asked)
        assert made.returncode == 0, made.stderr
        time.sleep(1)
        assert "--live" in vmm("clone", "one", "two").stderr  # it runs: the plain clone refuses
        cloned = vmm("clone", "one", "two", "--live")
        assert cloned.returncode == 0, cloned.stderr
        look = ("sh", "-c", "hostname; cat /dev/shm/m /d; od -An -N8 -tx1 /dev/urandom; cat /dev/shm/i")
        one, two = (vmm("exec", name, *look).stdout.split("\n") for name in ("one", "two"))
        assert one[:3] == ["one", "mem", "disk"]
        assert two[:3] == ["two", "mem", "disk"]
        assert one[3] != two[3]
        vmm("exec", "two", "sh", "-c", "echo other >/d; echo other >/dev/shm/m; sync")
        assert vmm("exec", "one", "cat", "/d", "/dev/shm/m").stdout == "disk\nmem\n"
        time.sleep(0.6)
        for name, before in (("one", one[4]), ("two", two[4])):
            assert int(vmm("exec", name, "cat", "/dev/shm/i").stdout) > int(before)
        vmm("pause", "one")
        for words in (("clone", "one", "three", "--live"), ("template", "create", "three", "one")):
            refused = vmm(*words)
            assert (refused.returncode, "hint: vmm resume one" in refused.stderr) == (1, True)
        assert '"state": "paused"' in vmm("inspect", "one").stdout  # and not let go on
        assert vmm("rm", "-f", "one").returncode == 0  # the clone stands on nothing of its source
        assert vmm("exec", "two", "cat", "/d").stdout == "other\n"
    finally:
        vmm("rm", "-f", "one", "two")
