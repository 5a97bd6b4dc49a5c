"""What this host can do, for tests: a missing capability skips and names itself, or fails where it must work.

With `VMM_MUST_WORK=1` a missing capability that `VMM_CAPABILITIES` lists (all, when unset) is a failure.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ORDINARY_USER = "vmm-test"
AXE_CORE = Path(sys.prefix, "lib", "vmm", "axe.min.js")


def _program(*names: str) -> Callable[[], str]:
    def reason() -> str:
        gone = [name for name in names if shutil.which(name) is None]
        return f"not installed: {', '.join(gone)}" if gone else ""

    return reason


def _root() -> str:
    return "" if os.geteuid() == 0 else "not root"


def _user() -> str:
    if os.geteuid():
        return ""
    if subprocess.run(["id", ORDINARY_USER], capture_output=True, check=False).returncode == 0:
        return ""
    made = subprocess.run(["useradd", "-m", ORDINARY_USER], capture_output=True, text=True, check=False)
    return made.stderr if made.returncode else ""


def _cgroup() -> str:
    one_of = ("memory/cgroup.procs", "cgroup.controllers")
    if any(Path("/sys/fs/cgroup", file).exists() for file in one_of):
        return _root()
    return "no cgroup controller is mounted"


def _overlay() -> str:
    return (
        "" if "overlay" in Path("/proc/filesystems").read_text() else "the kernel has no overlay file system"
    )


def _userns() -> str:
    limit = Path("/proc/sys/user/max_user_namespaces")
    return "" if limit.exists() and int(limit.read_text()) > 0 else "user namespaces are off"


def _guest_helper() -> str:
    from host.errors import HostUnfit
    from host.paths import guest_helper

    try:
        guest_helper()
    except HostUnfit as error:
        return str(error)
    return ""


def _kvm_device() -> str:
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"/dev/kvm: {error.strerror}"
    return ""


def _kernel() -> str:
    return _program("apt-get", "dpkg-deb")()


def _ovmf() -> str:
    return "" if Path("/usr/share/OVMF/OVMF_CODE.fd").exists() else "OVMF is not installed"


def _grub() -> str:
    gone = [name for name in ("i386-pc", "x86_64-efi") if not Path("/usr/lib/grub", name).is_dir()]
    return f"no GRUB for {', '.join(gone)}" if gone else _program("grub-mkrescue", "xorriso", "mformat")()


def _axe_core() -> str:
    return "" if AXE_CORE.exists() else "axe-core is not there (make test fetches it where npm is)"


def _virtiofsd() -> str:
    from vmm.sidecars import VIRTIOFSD

    return "" if any(os.path.exists(path) for path in VIRTIOFSD) else "virtiofsd is not installed"


def next_qemu(suite: str) -> Path:
    """Where `make qemu-next` puts the QEMU of a suite: in front of PATH it is the one that machines take."""
    return Path(__file__).parents[1] / "build" / "qemu" / suite / "bin"


def _next_qemu(suite: str) -> Callable[[], str]:
    def reason() -> str:
        there = (next_qemu(suite) / "qemu-system-x86_64").exists()
        return (
            "" if there else f"QEMU of {suite} is not here (make qemu-next, where the host's archive has it)"
        )

    return reason


NEXT_QEMUS = {"qemu10": "bookworm-backports", "qemu11": "trixie-backports"}


def _foreign(machine: str) -> Callable[[], str]:
    def reason() -> str:
        from host.errors import HostUnfit
        from host.paths import guest_helper

        try:
            guest_helper(machine)
        except HostUnfit as error:
            return str(error)
        return _program(f"qemu-system-{machine}")()

    return reason


_REASONS: dict[str, Callable[[], str]] = {
    "root": _root,
    "user": _user,
    "qemu": _program("qemu-system-x86_64", "qemu-img"),
    **{name: _next_qemu(suite) for name, suite in NEXT_QEMUS.items()},
    "libvirt": _program("libvirtd", "virtlogd", "virsh"),
    "cgroup": _cgroup,
    "overlay": _overlay,
    "userns": _userns,
    "nft": _program("nft"),
    "guest-helper": _guest_helper,
    "busybox": _program("busybox"),
    "mmdebstrap": _program("mmdebstrap"),
    "kernel": _kernel,
    "chromium": _program("chromium"),
    "axe-core": _axe_core,
    "docker": _program("dockerd", "docker", "containerd"),
    "docker-registry": _program("docker-registry"),
    "skopeo": _program("skopeo"),
    "syslinux": _program("syslinux", "sgdisk", "mcopy", "mkfs.vfat"),
    "umoci": _program("umoci"),
    "runc": _program("runc"),
    "crun": _program("crun"),
    "podman": _program("podman"),
    "lxc": _program("lxc-execute"),
    "nspawn": _program("systemd-nspawn"),
    "bwrap": _program("bwrap"),
    "hyperfine": _program("hyperfine"),
    "ovmf": _ovmf,
    "grub": _grub,
    "swtpm": _program("swtpm"),
    "swtpm_setup": _program("swtpm_setup"),
    "virtiofsd": _virtiofsd,
    "aarch64": _foreign("aarch64"),
    "x86_64": _foreign("x86_64"),
    "slirp4netns": _program("slirp4netns"),
    "dnsmasq": _program("dnsmasq"),
    "systemd": lambda: "" if Path("/run/systemd/system").is_dir() else "systemd is not pid 1",
    "sshd": lambda: "" if Path("/usr/sbin/sshd").exists() else "openssh-server is not installed",
    "tmux": _program("tmux"),
    "kvm-device": _kvm_device,
}


@functools.cache
def why_missing(capability: str) -> str:
    """The reason why this host lacks a capability, or an empty string."""
    return _REASONS[capability]()


def need(*capabilities: str) -> None:
    """Skip the test that calls this where a capability is missing; fail where it must work."""
    for capability in capabilities:
        reason = why_missing(capability)
        if not reason:
            continue
        listed = os.environ.get("VMM_CAPABILITIES")
        if os.environ.get("VMM_MUST_WORK") == "1" and (listed is None or capability in listed.split()):
            pytest.fail(f"this host must have {capability!r}: {reason}")
        pytest.skip(f"needs {capability!r}: {reason}")
