"""cgroup v2 where it is whole: the containers' own tests, run inside a Debian machine of ours (systemd)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import leaks
import pytest
from capabilities import need
from commandline import CommandLine

pytestmark = [pytest.mark.machine, pytest.mark.slow, pytest.mark.timeout(1200)]

CHECKOUT = Path(__file__).parents[2]
INSIDE = (
    "PYTHONDONTWRITEBYTECODE=1",
    "PYTHONPATH=/src:/src/tests:/site",
    "VMM_GUEST=/helper/vmm-guest",
    "VMM_MUST_WORK=1",
    "VMM_CAPABILITIES=root user cgroup overlay userns guest-helper busybox systemd",
)
PYTEST = ("python3", "-m", "pytest", "-p", "no:cacheprovider", "-q", "-rs", "-o", "timeout=400")


@pytest.fixture(scope="module")
def vmm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    """A command line that has a booted Debian, `unified`, with this checkout in /src."""
    need("root", "qemu", "kernel", "guest-helper", "mmdebstrap", "busybox")
    from host import paths
    from images import kernels

    home = tmp_path_factory.mktemp("unified") / "home"
    vmm = CommandLine(home)
    modules = kernels.guest_kernel(home, "generic").modules
    shares = {
        "/src": CHECKOUT,
        "/site": Path(pytest.__file__).parents[1],
        "/helper": paths.guest_helper().parent,
        "/modules": modules,
    }
    words = [word for inside, path in shares.items() for word in ("-v", f"{path}:{inside}:ro")]
    size = ("--memory", "1500M", "--cpus", "2", "--kernel", "generic", "--network", "none")
    try:
        vmm.ok("run", "--vm", "-d", "--name", "unified", *size, *words, "debian", "/sbin/init", timeout_s=900)
        vmm.ok("cp", str(shutil.which("busybox")), "unified:/usr/bin/busybox", timeout_s=120)
        # The image has no modules of its own: what the tests need is loaded from the host's copy.
        for module in ("fs/overlayfs/overlay.ko", "drivers/block/loop.ko"):
            vmm.ok("exec", "unified", "insmod", f"/modules/kernel/{module}")
        # The helper answers before systemd listens; --wait needs somebody to ask.
        booted = "until test -S /run/systemd/private; do sleep 1; done; systemctl is-system-running --wait"
        vmm.ok("exec", "unified", "sh", "-c", booted, timeout_s=300)
        yield vmm
    finally:
        vmm.run("rm", "-f", "--all", timeout_s=120)
        leaks.forget(home)


def inside(vmm: CommandLine, *words: str, timeout_s: float = 900) -> str:
    done = vmm.run("exec", "unified", "env", "-C", "/src", *INSIDE, *words, timeout_s=timeout_s)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " skipped" not in done.stdout, done.stdout[-3000:]
    return done.stdout


def test_it_is_cgroup_v2_and_nothing_else(vmm: CommandLine) -> None:
    look = "grep -c ' cgroup ' /proc/mounts; cat /sys/fs/cgroup/cgroup.controllers"
    said = vmm.ok("exec", "unified", "sh", "-c", look).split()
    assert said[0] == "0"
    assert {"cpuset", "cpu", "io", "memory", "pids"} <= set(said)


def test_limits_stats_and_oom_are_the_same_on_v2(vmm: CommandLine) -> None:
    """Memory, cpus, pids, cpuset, live update, stats, OOM told as OOM: the very tests of v1."""
    inside(vmm, *PYTEST, "tests/containers/test_containers_limits.py")


def test_detached_ones_live_pause_and_die_on_v2(vmm: CommandLine) -> None:
    chosen = "paused or exec or outlives or kill or stop or cgroup or namespace"
    files = ("tests/containers/test_containers_detached.py", "tests/containers/test_containers_run.py")
    inside(vmm, *PYTEST, *files, "-k", chosen)


def test_devices_are_kept_out_by_ebpf_on_v2(vmm: CommandLine) -> None:
    chosen = "device or capabilities or masked"
    inside(vmm, *PYTEST, "tests/containers/test_containers_security.py", "-k", chosen)
    inside(vmm, *PYTEST, "tests/oci/test_oci_devices.py", "-k", "kernel or v2")


def test_io_limits_hold_on_v2(vmm: CommandLine) -> None:
    """The throttle is the kernel's word in io.max, and a write that takes its time."""
    script = """
import os, sys, time
from pathlib import Path
from containers.container import Container
from containers.spec import ContainerSpec
from host.edges import Edges
from host.linux.cgroup import Limits
from host.stdio import Stdio
seen = os.stat("/var/tmp").st_dev
disk = f"{os.major(seen)}:{os.minor(seen)}"
root = Path("/var/tmp/io/root/bin"); root.mkdir(parents=True, exist_ok=True)
os.path.exists(root / "busybox") or os.link("/usr/bin/busybox", root / "busybox")
folder = Path("/var/tmp/io/instances/c1"); folder.mkdir(parents=True, exist_ok=True)
argv = ("/bin/busybox", "dd", "if=/dev/zero", "of=/x", "bs=1M", "count=4", "conv=fsync")
limits = Limits(io_bps=((disk, "write", 1 << 20),))
spec = ContainerSpec("c1", ("/var/tmp/io/root",), argv, limits=limits)
container = Container(folder, Path("/run/vmm/io/c1"), spec)
print(container.plan().count(f"{disk} wbps=1048576"))
began = time.monotonic()
status = container.run(Stdio(), Edges())
print(status, time.monotonic() - began > 2.5)
container.remove()
"""
    assert inside(vmm, "python3", "-c", script).split() == ["1", "0", "True"]


def test_an_ordinary_user_has_limits_in_a_delegated_group(vmm: CommandLine) -> None:
    inside(vmm, *PYTEST, "tests/containers/test_containers_user.py", "-k", "delegated or every_namespace")
