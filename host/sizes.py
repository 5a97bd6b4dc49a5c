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


_FACTOR_S = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART_S = r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h|d)"


def parse_seconds(text: str, what: str = "time") -> float:
    """Seconds from `30`, `0.5`, `500ms`, `5s` or `1h30m`, as docker writes them; raises Usage."""
    text = text.strip()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    if not re.fullmatch(f"({_PART_S})+", text):
        hint = "write it as 30, 500ms, 5s or 1h30m"
        raise Usage(f"cannot read the {what}", repr(text), "not a length of time", hint)
    return sum(float(number) * _FACTOR_S[unit] for number, unit in re.findall(_PART_S, text))


def format_bytes(size: float) -> str:
    """Bytes for people, in powers of 1024: `12.3 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
