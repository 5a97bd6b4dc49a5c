"""A bundle with busybox as its root, and the command line that runs it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from containers.oci import template

_WORDS = "sh cat echo env grep hostname id ip ls mkdir mount ps pwd sleep stat stty touch true wc"


class Bundle:
    """A bundle in a folder; `config` is written by each command that reads it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "bundle"
        self.root = folder / "state"
        self.rootfs = self.path / "rootfs"
        (self.rootfs / "bin").mkdir(parents=True)
        busybox = shutil.which("busybox")
        assert busybox
        shutil.copy(busybox, self.rootfs / "bin" / "busybox")
        for name in _WORDS.split():
            (self.rootfs / "bin" / name).symlink_to("busybox")
        for name in ("etc", "tmp", "proc", "sys", "dev"):
            (self.rootfs / name).mkdir()
        self.config: dict[str, Any] = template.document()
        self.linux: dict[str, Any] = self.config["linux"]
        self.process: dict[str, Any] = self.config["process"]
        self.name = f"t{os.getpid()}-{folder.name[-8:]}"
        self.linux["cgroupsPath"] = f"/vmm-oci-test/{self.name}"

    def oci(self, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run vmm-oci with our state root; the output of a created container goes where ours goes."""
        (self.path / "config.json").write_text(json.dumps(self.config))
        argv = [sys.executable, "-m", "containers.oci.main", "--root", str(self.root), *words]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, **more)

    def sh(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a shell script in a new container."""
        self.process["args"] = ["sh", "-c", script]
        return self.oci("run", "--bundle", str(self.path), self.name)

    def create(self, *args: str, flags: tuple[str, ...] = ()) -> None:
        """Create a container whose output goes to a file in the bundle."""
        if args:
            self.process["args"] = list(args)
        (self.path / "config.json").write_text(json.dumps(self.config))
        self.detached("create", "--bundle", str(self.path), *flags, self.name)

    def detached(self, *words: str) -> None:
        """Run vmm-oci where what it starts outlives it, and so may not hold a pipe of ours."""
        argv = [sys.executable, "-m", "containers.oci.main", "--root", str(self.root), *words]
        with open(self.path / "out", "w", encoding="utf-8") as out:
            subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=60, check=True)

    def status(self) -> str:
        """The status that `state` tells."""
        told = self.oci("state", self.name)
        return str(json.loads(told.stdout)["status"]) if told.returncode == 0 else "gone"

    def until(self, status: str, deadline_s: float = 10) -> str:
        """Wait for a status; the last one seen."""
        end = time.monotonic() + deadline_s
        while (seen := self.status()) != status and time.monotonic() < end:
            time.sleep(0.02)
        return seen

    def said(self) -> str:
        """What the created container wrote."""
        return (self.path / "out").read_text()

    def left(self) -> list[str]:
        """What should not be there any more: cgroups, mounts, state."""
        groups = [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/vmm-oci-test/{self.name}")]
        mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if str(self.path) in line]
        states = [str(path) for path in self.root.glob(self.name)]
        return groups + mounts + states
