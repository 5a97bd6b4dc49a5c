"""systemd-nspawn: systemd's container runner, here without its machine registry."""

from __future__ import annotations

from pathlib import Path

from bench.targets import cgroups
from bench.targets.bubblewrap import Bubblewrap
from bench.targets.command import under_init


class Nspawn(Bubblewrap):
    """`systemd-nspawn -q --register=no --keep-unit --private-network -D ROOT`; ROOT is mounted before t0."""

    name = "systemd-nspawn"
    program = "systemd-nspawn"

    def argv(self, root: Path, inside: tuple[str, ...]) -> list[str]:
        """The command line; nspawn wants /usr and an os-release in its root."""
        (root / "usr").mkdir(exist_ok=True)
        (root / "etc").mkdir(exist_ok=True)
        if not (root / "etc/os-release").exists() and not (root / "usr/lib/os-release").exists():
            (root / "etc/os-release").write_text("ID=vmm-bench\n")
        # mkdtemp may end in a dash, which no host name may
        machine = f"bench-{root.parent.name.replace('_', '-')}x"
        words = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--private-network",
                 "--console=pipe", f"--machine={machine}", "-D", str(root)]  # fmt: skip
        return [*words, *under_init(inside)]

    def cleanup(self) -> None:
        """With --keep-unit nspawn leaves the two cgroups that it makes below ours."""
        super().cleanup()
        for name in ("payload", "supervisor"):
            cgroups.remove(name)
