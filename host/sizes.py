"""Sizes as people write them (256M, 1.5G) and as programs count them (bytes)."""

from __future__ import annotations

import re

from host.errors import Usage

_FACTOR = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_FORM = re.compile(r"(\d+(?:\.\d+)?)\s*([bkmgt]?)(?:i?b)?", re.IGNORECASE)


def parse_bytes(text: str, what: str = "size") -> int:
    """Bytes from `256M`, `1.5g`, `512MiB` or `4096`: powers of 1024, as docker and QEMU read them.

    Raises Usage for anything else, and for zero.
    """
    match = _FORM.fullmatch(text.strip())
    size = int(float(match[1]) * _FACTOR[match[2].lower()]) if match else 0
    if size <= 0:
        hint = "write it as 256M, 1.5G or a count of bytes"
        raise Usage(f"cannot read the {what}", repr(text), "not a size", hint)
    return size


def format_bytes(size: float) -> str:
    """Bytes for people, in powers of 1024: `12.3 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
