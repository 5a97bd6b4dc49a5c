"""LXC: `lxc-execute`, the runner of one command, in a directory of its own."""

from __future__ import annotations

from pathlib import Path

from bench.targets import cgroups
from bench.targets.bubblewrap import Bubblewrap
from bench.targets.command import under_init
from host.sizes import parse_bytes


class Lxc(Bubblewrap):
    """`lxc-execute` with an empty network and a memory limit; ROOT is mounted before t0."""

    name = "lxc"
    program = "lxc-execute"

    def argv(self, root: Path, inside: tuple[str, ...]) -> list[str]:
        """The command line, and the config that it reads."""
        folder = root.parent
        name = f"bench-{folder.name.replace('_', '-')}"
        (folder / "mnt").mkdir(exist_ok=True)
        config = folder / "lxc.conf"
        config.write_text(
            f"lxc.rootfs.path = dir:{root}\nlxc.rootfs.mount = {folder}/mnt\nlxc.net.0.type = empty\n"
            "lxc.apparmor.profile = unconfined\nlxc.mount.auto = proc:mixed sys:ro\n"
            f"lxc.uts.name = {name}\nlxc.cgroup.memory.limit_in_bytes = {parse_bytes('256M')}\n"
        )
        words = ["lxc-execute", "-P", str(folder), "-n", name, "-f", str(config), "--"]
        return [*words, *under_init(inside)]

    def cleanup(self) -> None:
        """LXC leaves its pivot cgroups (and those of containers that were killed)."""
        super().cleanup()
        for pattern in ("lxc.pivot*", "lxc.payload.bench-*", "lxc.monitor.bench-*"):
            for folder in cgroups.ROOT.glob(f"*/{pattern}"):
                cgroups.remove(folder.name)
