"""unshare(1): every namespace and a chroot, by util-linux; what a container is without anything else."""

from __future__ import annotations

import shutil
from pathlib import Path

from bench.core.target import Unavailable
from bench.targets.bubblewrap import Bubblewrap
from bench.targets.command import under_init


class Unshare(Bubblewrap):
    """`unshare --mount --uts --ipc --net --pid --cgroup --fork --root ROOT`; ROOT is mounted before t0."""

    name = "unshare"
    program = "unshare"
    devices = True

    def why_unavailable(self) -> Unavailable | None:
        """util-linux is everywhere; root is needed."""
        if shutil.which("unshare") is None:
            return Unavailable("unshare is not installed", "apt-get install util-linux")
        return super().why_unavailable()

    def argv(self, root: Path, inside: tuple[str, ...]) -> list[str]:
        """The command line."""
        words = ["unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--fork",
                 "--kill-child", "--mount-proc", "--root", str(root)]  # fmt: skip
        return [*words, *under_init(inside)]
