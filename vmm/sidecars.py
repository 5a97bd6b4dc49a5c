"""The programs that serve a machine's QEMU from beside it: virtiofsd for each shared folder, swtpm for a TPM.

Each gets a listening socket of ours, serves the one QEMU that connects, and ends when it hangs up: nobody has
to supervise them. virtiofsd stays root, for the guest's files keep their owners, in namespaces of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from host import paths
from host.errors import DeadlinePassed, HostUnfit
from vmm import process
from vmm.confine import Confinement
from vmm.spec import MachineSpec, Share

# Debian 12's C virtiofsd, part of qemu-system-common; newer ones come as a package of their own.
VIRTIOFSD = ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd")
# A read-only view of the folder, in a mount namespace that ends with virtiofsd: it knows no such option.
_READ_ONLY = 'mount --bind -o ro -- "$1" "$1" && shift && exec "$@"'

_LINGER_S = 0.5
_Words = Callable[[int], list[str]]  # the command that serves at a listening socket


def start(spec: MachineSpec, run: Path, folder: Path, who: Confinement) -> list[int]:
    """Start what the machine's QEMU will connect to; their pids. HostUnfit where a program is missing."""
    pids: list[int] = []
    try:
        for number, share in enumerate(spec.shares):
            if share.kind == "virtiofs":
                pids.append(_serve(run, folder, who, f"share{number}", partial(virtiofsd, share)))
        if spec.tpm:
            state = paths.ensure(folder / "tpm", 0o700)
            who.give(state, 0o700)
            confined = who.prefix(False)
            pids.append(_serve(run, folder, who, "tpm", lambda fd: [*confined, *swtpm(state, fd)]))
    except BaseException:
        end(pids)
        raise
    return pids


def _serve(run: Path, folder: Path, who: Confinement, name: str, words: _Words) -> int:
    with process.listen(run, [name])[name] as listener:
        who.give(run / name)
        argv = words(listener.fileno())
        try:
            pid = process.spawn(argv, [listener.fileno()], folder / f"{name}.log")
        except FileNotFoundError:
            raise HostUnfit("cannot start the machine", why=f"{argv[0]} is not installed") from None
    (run / f"{name}.pid").write_text(str(pid))
    return pid


def virtiofsd(share: Share, fd: int) -> list[str]:
    """The command that serves a folder at the listening socket `fd`."""
    program = next((path for path in VIRTIOFSD if os.path.exists(path)), None)
    if program is None:
        hint = "apt-get install qemu-system-common virtiofsd; -v works by 9p for an ordinary user"
        raise HostUnfit("cannot share a folder", share.source, "virtiofsd is not installed", hint)
    # xattr: a guest's overlay or package manager keeps file capabilities there. The limit of open files stays
    # ours: raising it, as virtiofsd would, takes CAP_SYS_RESOURCE, which root in a container has not.
    words = [
        program,
        f"--fd={fd}",
        "-f",
        "--rlimit-nofile=0",
        "-o",
        f"source={share.source}",
        "-o",
        "xattr,log_level=err",
    ]
    if not share.read_only:
        return words
    return ["unshare", "--mount", "sh", "-c", _READ_ONLY, "sh", share.source, *words]


def swtpm(state: Path, fd: int) -> list[str]:
    """The command that is a TPM 2.0 at the listening socket `fd`, its memory in `state`."""
    where = ("--tpmstate", f"dir={state}", "--ctrl", f"type=unixio,fd={fd}")
    return ["swtpm", "socket", "--tpm2", *where, "--terminate"]


def end(pids: list[int]) -> None:
    """End those that have no QEMU any more; they go by themselves, unless none ever connected."""
    for pid in pids:
        try:
            process.wait_gone(pid, _LINGER_S)
        except DeadlinePassed:
            process.end(pid)


def living(run: Path) -> list[int]:
    """The pids of a running machine's sidecars: what they use is the machine's cost, too."""
    found = []
    for path in run.glob("*.pid"):
        pid = path.read_text()
        try:
            name = Path("/proc", pid, "comm").read_text().strip()
        except OSError:
            continue
        if name in ("virtiofsd", "swtpm"):
            found.append(int(pid))
    return sorted(found)
