"""The command line as a user has it, for the tests of instances."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


class CommandLine:
    """`vmm` in one home."""

    def __init__(self, home: Path) -> None:
        self.home = home
        # A probe of KVM in each new home would take seconds: what it finds has a test of its own.
        self.env = {"VMM_ACCEL": "tcg", **os.environ, "VMM_HOME": str(home)}

    def argv(self, *words: str) -> list[str]:
        """The words of the process that `vmm WORDS` is."""
        return [sys.executable, "-m", "cli.main", *words]

    def run(
        self, *words: str, input: str | None = None, timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self.argv(*words),
            capture_output=True,
            text=True,
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            timeout=timeout_s,
            env=self.env,
            check=False,
        )

    def ok(self, *words: str, input: str | None = None, timeout_s: float = 60) -> str:
        """The stdout of a command that must succeed."""
        done = self.run(*words, input=input, timeout_s=timeout_s)
        assert done.returncode == 0, (words, done.returncode, done.stdout, done.stderr)
        return done.stdout

    def ls(self) -> dict[str, dict[str, Any]]:
        """Every instance by name, as `ls -a --json` tells it."""
        return {one["name"]: one for one in json.loads(self.ok("ls", "-a", "--json"))["instances"]}

    def inspect(self, name: str) -> dict[str, Any]:
        """What inspect says of one instance."""
        told: dict[str, Any] = json.loads(self.ok("inspect", name))["instances"][0]
        return told


def told(done: subprocess.CompletedProcess[str], status: int, *words: str) -> None:
    """One error with these words, no traceback."""
    assert done.returncode == status, done
    assert "Traceback" not in done.stderr
    assert "fault of vmm itself" not in done.stderr
    assert sum(line.startswith("vmm") for line in done.stderr.splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
