"""Which accelerator machines get on this host: KVM only where a probe guest reached its marker.

That /dev/kvm opens proves nothing: there are hosts whose KVM takes every ioctl and never runs a kernel to
its end. The probe boots the real guest kernel under KVM, once per boot of the host; the answer is a record
in the home.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from host import paths, records
from host.errors import Failure
from vmm import confine, process

# The kernel's own words (init/main.c, init/do_mounts.c): it starts the initramfs, or found no root without
# one.
MARKER = rb"Run /init as init process|VFS: (?:Cannot open|Unable to mount) root"
DEADLINE_S = 10.0
_KVM = "/dev/kvm"


class Verdict(NamedTuple):
    """`kvm` or `tcg`, and why in one sentence."""

    accelerator: str
    reason: str

    @property
    def works(self) -> bool:
        """Whether machines get KVM."""
        return self.accelerator == "kvm"


def choose(kernel: str, initrd: str, home: Path | None = None) -> str:
    """`kvm` where the probe of this boot of the host succeeded, else `tcg`.

    Probes where there is no record yet, which takes `$VMM_PROBE_S` (10) seconds at most, and says so on
    stderr.
    """
    home = home or paths.home()
    verdict = closed() or recorded(home)
    if verdict is None and kernel:
        print("vmm: trying KVM with the guest kernel, once per boot of this host", file=sys.stderr)
        verdict = probe(home, kernel, initrd)
        print(f"vmm: {verdict.reason}", file=sys.stderr)
    return verdict.accelerator if verdict else "tcg"


def closed() -> Verdict | None:
    """The verdict that needs no probe: /dev/kvm is not there, or not ours to open."""
    try:
        os.close(os.open(_KVM, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return Verdict("tcg", "kvm: absent, there is no /dev/kvm; using tcg")
    except OSError as error:
        return Verdict("tcg", f"kvm: cannot open /dev/kvm ({error.strerror}); using tcg")
    return None


def recorded(home: Path) -> Verdict | None:
    """What the probe found since this host was booted, or None where nobody asked yet."""
    try:
        record = records.read(home / "accelerator.json")
    except (FileNotFoundError, Failure):
        return None
    if record.get("host_boot_id") != _boot_id():
        return None
    return Verdict(str(record["accelerator"]), str(record["reason"]))


def probe(
    home: Path | None = None, kernel: str = "", initrd: str = "", timeout_s: float | None = None
) -> Verdict:
    """Boot a guest kernel under KVM until its marker or the deadline, and record the answer.

    Without a kernel it takes the one that this home has fetched; where there is none nothing is tried.
    """
    home = home or paths.home()
    kernel = kernel or _fetched_kernel(home)
    if not kernel:
        return Verdict(
            "tcg", "kvm: present, but not tried: no guest kernel is here yet (the first vmm run does)"
        )
    limit_s = timeout_s if timeout_s is not None else float(os.environ.get("VMM_PROBE_S", DEADLINE_S))
    began = time.monotonic()
    trouble = try_guest(lambda serial: probe_argv(kernel, initrd, serial), MARKER, limit_s)
    took_s = time.monotonic() - began
    if trouble:
        verdict = Verdict("tcg", f"kvm: present, but {trouble}; using tcg")
    else:
        verdict = Verdict("kvm", f"kvm: works, the guest kernel reached its marker in {took_s:.1f} s")
    paths.ensure(home)
    record = {**verdict._asdict(), "host_boot_id": _boot_id(), "took_s": round(took_s, 3)}
    records.write(home / "accelerator.json", {**record, "probed_unix_s": time.time()})
    return verdict


def _fetched_kernel(home: Path) -> str:
    found = sorted((home / "cache" / "kernels").glob("*/vmlinux"))
    return str(found[0]) if found else ""


def probe_argv(kernel: str, initrd: str, serial: str) -> list[str]:
    """The smallest QEMU that starts a kernel under KVM; works for a bzImage and for a PVH vmlinux."""
    return [
        "qemu-system-x86_64",
        *("-no-user-config", "-nodefaults", "-no-reboot", "-display", "none"),
        *("-machine", "q35", "-accel", "kvm", "-cpu", "host", "-m", "128M"),
        *("-serial", f"file:{serial}", "-kernel", kernel),
        *(("-initrd", initrd) if initrd else ()),
        *("-append", "console=ttyS0 earlyprintk=ttyS0 panic=-1"),
    ]


def try_guest(argv: Callable[[str], list[str]], marker: bytes, timeout_s: float) -> str:
    """Run a guest until its serial port says `marker`; the trouble in words, empty where it did."""
    who = confine.confinement([], kvm=True)
    with tempfile.TemporaryDirectory(prefix="vmm-probe-") as folder:
        serial, log = Path(folder, "serial"), Path(folder, "log")
        serial.touch()
        os.chmod(folder, 0o755)
        who.give(serial, 0o600)
        pid = process.spawn([*who.prefix(dies_with_caller=True), *argv(str(serial))], [], log)
        try:
            return _watch(pid, serial, log, marker, timeout_s)
        finally:
            with contextlib.suppress(Failure):
                process.end(pid)


def _watch(pid: int, serial: Path, log: Path, marker: bytes, timeout_s: float) -> str:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if re.search(marker, serial.read_bytes()):
            return ""
        status = process.reap(pid)
        if status is not None:
            words = log.read_text(errors="replace").strip().splitlines()
            return f"QEMU ended with {status}" + (f" ({words[-1]})" if words else "")
        time.sleep(0.02)
    return f"the guest kernel did not reach its marker in {timeout_s:g} s"


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
