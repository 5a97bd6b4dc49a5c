"""Where state lives: one home for what stays, one run directory for what dies with the host's boot."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """`$VMM_HOME`, else /var/lib/vmm for root, else `$XDG_DATA_HOME/vmm` (XDG Base Directory 0.8)."""
    given = os.environ.get("VMM_HOME")
    if given:
        return Path(os.path.abspath(given))
    if os.geteuid() == 0:
        return Path("/var/lib/vmm")
    data = os.environ.get("XDG_DATA_HOME") or os.path.join(os.path.expanduser("~"), ".local", "share")
    return Path(data, "vmm")


def run_dir(of: Path | None = None) -> Path:
    """The directory for sockets and pid files of a home: short, since sun_path holds 108 bytes (unix(7)).

    It carries a checksum of the home's path, so that two homes on one host never meet.
    """
    import zlib  # hashlib would load OpenSSL, 3 ms of every command

    where = str(of or home())
    base = "/run/vmm" if os.geteuid() == 0 else os.path.join(runtime_base(), "vmm")
    return Path(base, f"{zlib.crc32(where.encode()):08x}")


def runtime_base() -> str:
    """`$XDG_RUNTIME_DIR`, or a private directory in /tmp where no login session made one."""
    return os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/run-{os.geteuid()}"


def ensure(path: Path, mode: int = 0o755) -> Path:
    """Make the directory with its parents, and return it."""
    path.mkdir(mode=mode, parents=True, exist_ok=True)
    return path


def instances_dir(of: Path | None = None) -> Path:
    """The directory that holds one folder for each instance of either kind."""
    return (of or home()) / "instances"


def guest_helper(machine: str = "") -> Path:
    """The static guest helper that `make setup` builds (guest/); `$VMM_GUEST` names another.

    `machine` (uname -m) is another architecture than the host's. Raises HostUnfit where it was never built.
    """
    import sys

    given = os.environ.get("VMM_GUEST")
    path = Path(given) if given else Path(sys.prefix, "lib", "vmm", "vmm-guest")
    hint = "make setup"
    if machine not in ("", os.uname().machine):
        path = path.with_name(f"{path.name}-{machine}")
        cross = f"gcc-{machine.replace('_', '-')}-linux-gnu"
        hint = f"apt-get install {cross}; make setup builds it where that compiler is"
    if not path.is_file():
        from host.errors import HostUnfit

        raise HostUnfit("cannot find the guest helper", str(path), "it was never built", hint)
    return path
