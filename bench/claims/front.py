"""The `host` target of probes: a shell on this host that drives vmm by its own command line, as a reader
would."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from bench.core.target import Cell, Held, Parts, Unavailable
from host.errors import Unsupported

OUTPUT_LIMIT_BYTES = 256 << 10


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
        # Its name is also the name of instances and images, where an underscore may not stand everywhere.
        scratch = str(Path(tempfile.gettempdir(), f"claim-{secrets.token_hex(6)}"))
        os.mkdir(scratch, 0o700)
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
    """What the script said, and its status; None where the deadline passed.

    Its output goes to files: a process that it left in the background would hold a pipe open.
    """
    with open(f"{scratch}.out", "w+b") as out, open(f"{scratch}.err", "w+b") as err:
        os.unlink(out.name)
        os.unlink(err.name)
        process = subprocess.Popen(
            list(cell.command), cwd=scratch, env=environment(scratch), stdin=subprocess.DEVNULL,
            stdout=out, stderr=err, start_new_session=True,
        )  # fmt: skip
        try:
            status = process.wait(timeout=cell.deadline_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        said, words = (_text(stream) for stream in (out, err))
    return said, words, status


def _text(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read(OUTPUT_LIMIT_BYTES).decode(errors="replace")
