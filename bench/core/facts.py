"""What this host is: the facts that a result means nothing without, read from /proc and /sys."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def host() -> dict[str, Any]:
    """The short facts that every sample carries."""
    return {
        "id": identity(),
        "cpu_model": _cpu("model name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": _memory("MemTotal"),
        "kernel": platform.release(),
        "cgroup": cgroup_version(),
        "clocksource": _text("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        "virtualization": virtualization(),
    }


def short(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Of all facts those that every sample carries."""
    names = ("id", "cpu_model", "cores", "memory_bytes", "kernel", "cgroup", "clocksource", "virtualization")
    return {name: facts.get(name) for name in names}


def full() -> dict[str, Any]:
    """All facts, for campaign.json; None where the kernel does not tell."""
    return {
        **host(),
        "cpu": {
            "microcode": _cpu("microcode"),
            "cache_size": _cpu("cache size"),
            "flags": sorted((_cpu("flags") or "").split()),
            "smt": _text("/sys/devices/system/cpu/smt/control"),
            "governor": _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            "turbo_off": _text("/sys/devices/system/cpu/intel_pstate/no_turbo"),
            "numa_nodes": _text("/sys/devices/system/node/online"),
        },
        "mitigations": mitigations(),
        "memory": {
            "transparent_hugepage": _chosen("/sys/kernel/mm/transparent_hugepage/enabled"),
            "ksm_run": _text("/sys/kernel/mm/ksm/run"),
            "swap_bytes": _memory("SwapTotal"),
            "page_bytes": os.sysconf("SC_PAGE_SIZE"),
            "overcommit": _text("/proc/sys/vm/overcommit_memory"),
        },
        "clocksources": _text("/sys/devices/system/clocksource/clocksource0/available_clocksource"),
        "pressure_stall_information": os.path.exists("/proc/pressure/cpu"),
        "os": _os_name(),
        "python": platform.python_version(),
        "euid": os.geteuid(),
        "kvm_device": _kvm(),
        "load_average": list(os.getloadavg()),
    }


def identity() -> str:
    """A name for this host that tells nobody which one it is; `$VMM_BENCH_HOST` names it otherwise."""
    given = os.environ.get("VMM_BENCH_HOST")
    if given:
        return given
    told = _text("/etc/machine-id") or platform.node()
    return "host-" + hashlib.sha256(f"vmm bench {told}".encode()).hexdigest()[:8]


def mitigations() -> dict[str, str]:
    """What the kernel does against the processor's flaws: some cost every system call."""
    folder = Path("/sys/devices/system/cpu/vulnerabilities")
    with contextlib.suppress(OSError):
        return {path.name: path.read_text().strip() for path in sorted(folder.iterdir())}
    return {}


def cgroup_version() -> str:
    """`v2`, `v1`, or `hybrid`: v1 controllers with the v2 tree beside them."""
    with contextlib.suppress(OSError):
        kinds = {line.split()[2] for line in Path("/proc/self/mounts").read_text().splitlines()}
        if "cgroup2" in kinds:
            return "hybrid" if "cgroup" in kinds else "v2"
        return "v1" if "cgroup" in kinds else "none"
    return "unknown"


def virtualization() -> str:
    """The hypervisor below us as systemd-detect-virt names it, `none` on bare metal, else `vm`."""
    program = shutil.which("systemd-detect-virt")
    if program:
        done = subprocess.run([program, "--vm"], capture_output=True, text=True, timeout=10, check=False)
        if done.stdout.strip():
            return done.stdout.strip()
    return "vm" if " hypervisor" in f" {_cpu('flags') or ''} " else "none"


_VERSION_ARGV: Mapping[str, tuple[str, ...]] = {
    "qemu": ("qemu-system-x86_64", "--version"),
    "libvirt": ("libvirtd", "--version"),
    "docker": ("docker", "--version"),
    "runc": ("runc", "--version"),
    "crun": ("crun", "--version"),
    "podman": ("podman", "--version"),
    "lxc": ("lxc-execute", "--version"),
    "systemd-nspawn": ("systemd-nspawn", "--version"),
    "bubblewrap": ("bwrap", "--version"),
    "unshare": ("unshare", "--version"),
}


def version_of(program: str) -> str:
    """The version that a program says of itself, or an empty string where it is not installed."""
    argv = _VERSION_ARGV.get(program, (program, "--version"))
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout or done.stderr).strip().split("\n")[0].strip()


def ours() -> str:
    """Our own version, with the commit where we run from a checkout: history is across commits."""
    from importlib.metadata import PackageNotFoundError, version

    commit = _commit(Path(__file__).parents[2] / ".git")
    try:
        return version("vmm-lab") + (f"+g{commit}" if commit else "")
    except PackageNotFoundError:
        return "unknown (not installed)"


def _commit(git: Path) -> str:
    """The checked-out commit's first digits (gitrepository-layout(5)); empty where there is no checkout."""
    head = _text(str(git / "HEAD")) or ""
    if not head.startswith("ref: "):
        return head[:8]
    name = head.removeprefix("ref: ")
    packed = (_text(str(git / "packed-refs")) or "").splitlines()
    found = _text(str(git / name)) or next((line for line in packed if line.endswith(f" {name}")), "")
    return found[:8]


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _chosen(path: str) -> str | None:
    text = _text(path) or ""
    return text.partition("[")[2].partition("]")[0] or None


def _cpu(key: str) -> str | None:
    for line in (_text("/proc/cpuinfo") or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return None


def _memory(key: str) -> int:
    for line in (_text("/proc/meminfo") or "").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return 0


def _os_name() -> str | None:
    for line in (_text("/etc/os-release") or "").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return None


def _kvm() -> str:
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"no: {error.strerror}"
    return "opens (which proves nothing: see the accelerator of each sample)"
