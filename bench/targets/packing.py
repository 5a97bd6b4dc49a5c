"""An instance of ours as one compressed file, by the tools that everybody has: what would have to be sent."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.targets import rootfs
from host import commands
from instances.kinds import MACHINE

if TYPE_CHECKING:
    from instances.registry import Instance


def packed(instance: Instance) -> dict[str, float]:
    """`transfer_bytes` and `pack_s`: a machine's disk, flat and compressed by zlib; a container's tar.gz."""
    with rootfs.scratch_folder() as folder:
        target = folder / "packed"
        began_s = time.monotonic()
        if instance.kind == MACHINE:
            argv = [
                "qemu-img",
                "convert",
                "-c",
                "-O",
                "qcow2",
                str(instance.folder / "disk.qcow2"),
                str(target),
            ]
            commands.run(argv, "cannot pack the disk", timeout_s=150)
        else:
            _tar(instance, target)
        return {"pack_s": time.monotonic() - began_s, "transfer_bytes": float(target.stat().st_size)}


def _tar(instance: Instance, target: Path) -> None:
    from instances import provision

    lowers = provision.lower_dirs(provision.image(instance.image))
    folders = [*reversed(lowers), str(instance.folder / "upper")]
    words = [word for folder in folders if Path(folder).is_dir() for word in ("-C", folder, ".")]
    with open(target, "wb") as out:
        tar = subprocess.Popen(["tar", "-c", *words], stdout=subprocess.PIPE)
        # The same compression as qcow2's, at the same level, so that the two sizes can be compared.
        subprocess.run(["gzip", "-6"], stdin=tar.stdout, stdout=out, timeout=150, check=True)
        tar.wait()
