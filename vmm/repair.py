"""What killed commands of this room left, and how it is removed."""

from __future__ import annotations

from pathlib import Path

from vmm import homeless, pool, templates


def repair(home: Path) -> list[str]:
    """Remove half-made templates, memory that belongs to none, and paused clones that nobody may have."""
    left = (*pool.sweep(home), *templates.sweep(home), *homeless.sweep(home))
    return [f"what a template left: {path}" for path in left]
