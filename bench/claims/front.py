"""The `host` target of probes: a shell on this host that drives vmm by its own command line, as a reader
would."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.core.target import Cell, Held, Parts, Unavailable
from host.errors import Unsupported


class Host:
    """Runs a script with `vmm` on its PATH, in a scratch folder `$SCRATCH` that is removed afterwards."""

    name = "host"
    daemons: tuple[str, ...] = ("dnsmasq", "vmm-supervisor", "containers.supervise")

    def why_unavailable(self) -> Unavailable | None:
        """A shell is always there."""
        return None

    def prepare(self, cell: Cell) -> None:
        """Nothing to make: scripts make what they need through vmm."""

    def run_once(self, cell: Cell) -> Parts:
        """Run the script; a status that is not zero is a failure, its last words the reason."""
        scratch = tempfile.mkdtemp(prefix="vmm-claim-")
        began_ns = time.monotonic_ns()
        try:
            ended = _run(cell, scratch)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        edges = {"t0": 0, "t9": time.monotonic_ns() - began_ns}
        if ended is None:
            return Parts("timeout", edges, error=f"the probe did not end within {cell.deadline_s:g} s")
        said, words, status = ended
        if status:
            why = f"the probe ended with {status}: {words.strip()[-300:]}"
            return Parts("failed", edges, exit_status=status, error=why, output=said)
        return Parts("ok", edges, exit_status=0, output=said)

    @contextmanager
    def hold(self, cell: Cell) -> Iterator[Held]:
        """A host cannot be held idle."""
        raise Unsupported("cannot hold", "host", "it is no instance")
        yield

    def disk(self, cell: Cell) -> Parts:
        """A host is no instance either on disk."""
        return Parts("failed", error="the host is no instance")

    def cleanup(self) -> None:
        """Each run removed its own folder; instances that a killed script left go by `vmm doctor
        --repair`."""

    def versions(self) -> dict[str, str]:
        """What runs is vmm itself."""
        return {}


def environment(scratch: str) -> dict[str, str]:
    """The caller's environment, with this vmm first on PATH."""
    beside = str(Path(sys.executable).parent)
    path = f"{beside}:{os.environ.get('PATH', os.defpath)}"
    return {**os.environ, "PATH": path, "SCRATCH": scratch, "LC_ALL": "C", "CLAIM_ID": Path(scratch).name}


def _run(cell: Cell, scratch: str) -> tuple[str, str, int] | None:
    process = subprocess.Popen(
        list(cell.command), cwd=scratch, env=environment(scratch), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True,
    )  # fmt: skip
    try:
        said, words = process.communicate(timeout=cell.deadline_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    return said, words, process.returncode
