"""Programs that we call: run to the end with a deadline, their words kept for the error."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from host.errors import CommandFailed, DeadlinePassed, HostUnfit

_PACKAGES = {
    "qemu-img": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
    "mke2fs": "e2fsprogs",
    "nft": "nftables",
    "dnsmasq": "dnsmasq-base",
    "newuidmap": "uidmap",
    "bwrap": "bubblewrap",
}


def run(
    argv: Sequence[str],
    what: str,
    *,
    timeout_s: float = 600.0,
    input: bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> bytes:
    """Run a program to its end and return its stdout.

    Raises HostUnfit when it is not installed, CommandFailed when it fails, DeadlinePassed after `timeout_s`.
    `what` is the sentence for the error: "cannot make the disk".
    """
    try:
        done = subprocess.run(
            argv, input=input, capture_output=True, timeout=timeout_s, env=env, cwd=cwd, check=False
        )
    except FileNotFoundError:
        if cwd is not None and not cwd.is_dir():
            raise
        raise missing(argv[0], what) from None
    except subprocess.TimeoutExpired:
        raise DeadlinePassed(what, why=f"{argv[0]} had not ended after {timeout_s:g} s") from None
    if done.returncode:
        words = (done.stderr or done.stdout).decode(errors="replace")
        raise CommandFailed(what, argv, done.returncode, words)
    return done.stdout


def missing(program: str, what: str) -> HostUnfit:
    """The error for a program that is not installed, with the command that installs it."""
    package = _PACKAGES.get(program, program)
    return HostUnfit(what, why=f"the program {program} is not installed", hint=f"apt-get install {package}")
