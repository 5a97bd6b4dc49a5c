"""Fixed colours: a target has the same one in every figure, told apart by any kind of sight and by dash as
well.

Containers are cool, machines warm, the baseline grey. The light set stands on white, the dark set on
near-black.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Ink:
    """One target's colours and dash."""

    css: str
    light: str
    dark: str
    dash: str = ""


_FIXED = {
    "process": Ink("process", "#5f6670", "#a7b0bb", "1.5 3.5"),
    "ct": Ink("ct", "#0068ab", "#55b6f2"),
    "vm": Ink("vm", "#c94f00", "#ff8a3d"),
    "vm-libvirt": Ink("vm-libvirt", "#8e3b84", "#e08fd2", "9 3"),
    "clone": Ink("clone", "#a97b00", "#f2c53d", "9 3 2 3"),
    "docker": Ink("docker", "#1f9dc4", "#8ad8f0", "6 3"),
    "podman": Ink("podman", "#00855f", "#42cf9f", "6 3 1.5 3"),
    "runc": Ink("runc", "#3d6b1f", "#a3d672", "3 3"),
    "crun": Ink("crun", "#7d8c00", "#d5e04f", "2 2"),
    "bwrap": Ink("bwrap", "#4a4fb5", "#a4a8ff", "4 2 1 2"),
    "lxc": Ink("lxc", "#176c70", "#66cfd3", "8 2 2 2"),
}
# The rungs of the ladder, from the longest way up to the shortest.
_RUNGS = {
    "rung-uefi-disk": Ink("rung-0", "#4d0f0f", "#d98c8c"),
    "rung-bios-disk": Ink("rung-1", "#7a1f1f", "#e8a0a0", "6 3"),
    "rung-uefi": Ink("rung-2", "#a3324a", "#ff8fa3", "2 4"),
    "rung-direct-loud": Ink("rung-3", "#8a4b08", "#e0a060", "9 3 2 3"),
    "rung-direct": Ink("rung-4", "#c94f00", "#ff8a3d"),
    "rung-no-initramfs": Ink("rung-5", "#b0680a", "#f0b060", "4 2 1 2"),
    "rung-pvh-qboot": Ink("rung-6", "#8e3b84", "#e08fd2", "7 4"),
    "rung-microvm": Ink("rung-7", "#5b3fa0", "#b8a4f5"),
    "rung-restore": Ink("rung-8", "#0068ab", "#55b6f2", "6 3 1.5 3"),
    "rung-clone": Ink("rung-9", "#00855f", "#42cf9f", "8 2 2 2"),
    "rung-pool": Ink("rung-10", "#5f6a00", "#d5e04f", "3 3"),
}
_SAME = {
    "bubblewrap": "bwrap",
    "vm-clone": "clone",
    "lxc-execute": "lxc",
    "vm-qemu": "vm",
    "libvirt": "vm-libvirt",
}
_SPARE = (
    Ink("spare-0", "#7a5230", "#d9ab84", "5 2"),
    Ink("spare-1", "#a3324a", "#ff8fa3", "2 4"),
    Ink("spare-2", "#2d5d50", "#8fcdbd", "7 4"),
    Ink("spare-3", "#5b5b85", "#bcbce8", "3 5"),
)
PHASES = {
    "t1": Ink("phase-1", "#9aa5b1", "#7d8894"),
    "t2": Ink("phase-2", "#5b7f95", "#7ea6bf"),
    "t3": Ink("phase-3", "#7a5195", "#b98be0"),
    "t4": Ink("phase-4", "#b5487e", "#e884b4"),
    "t5": Ink("phase-5", "#d9663d", "#f59273"),
    "t6": Ink("phase-6", "#c98a00", "#ecb23b"),
    "t7": Ink("phase-7", "#5d8f2f", "#9fcf72"),
    "t8": Ink("phase-8", "#007e8a", "#4ec3cf"),
    "t9": Ink("phase-9", "#b8bec6", "#59616b"),
}
ORDER = (
    "process",
    "ct",
    "bwrap",
    "bubblewrap",
    "runc",
    "crun",
    "lxc",
    "docker",
    "podman",
    "clone",
    "vm",
    "vm-libvirt",
    *_RUNGS,
)
_MACHINES = frozenset({"vm", "vm-libvirt", "clone", "libvirt"})


def is_machine(target: str) -> bool:
    """Whether it has a kernel of its own, by its name: every `vm-` and every rung of the ladder."""
    return target in _MACHINES or target.startswith(("vm-", "rung-"))


def ink(target: str) -> Ink:
    """The target's ink; a name that we never met gets a spare one, the same one every time."""
    known = _FIXED.get(_SAME.get(target, target)) or _RUNGS.get(target)
    return known or _SPARE[sum(target.encode("utf-8", "replace")) % len(_SPARE)]


def rank(target: str) -> tuple[int, str]:
    """Where a target stands in every list: baseline, containers, peers, machines, rungs from the longest way
    up."""
    return (ORDER.index(target) if target in ORDER else ORDER.index("clone"), target)


def all_inks() -> list[Ink]:
    """Every ink there is."""
    return [*_FIXED.values(), *_RUNGS.values(), *_SPARE, *PHASES.values()]


def css_rules() -> str:
    """The rules that give each ink class its colour and dash, by light and dark."""
    light = "".join(f"--{one.css}:{one.light};" for one in all_inks())
    dark = "".join(f"--{one.css}:{one.dark};" for one in all_inks())
    classes = "".join(f".ink-{one.css}{{color:var(--{one.css})}}" for one in all_inks())
    dashes = "".join(f".curve.ink-{one.css}{{stroke-dasharray:{one.dash}}}" for one in all_inks() if one.dash)
    return (
        f":root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}{classes}{dashes}"
    )
