"""How much memory the templates that `vmm run` makes by itself may hold, and which go first."""

from __future__ import annotations

import os
from pathlib import Path

from host.errors import Failure
from vmm import homeless, templates
from vmm.templates import Template

# Of the host's memory: templates nobody asked for by name must not crowd out what people start.
_SHARE = 8


def limit_bytes() -> int:
    """`$VMM_TEMPLATE_MEMORY_MIB`, else an eighth of the host's memory."""
    given = os.environ.get("VMM_TEMPLATE_MEMORY_MIB", "")
    if given.isdigit():
        return int(given) << 20
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _SHARE


def trim(home: Path, newest: str) -> list[str]:
    """Remove templates of `vmm run` itself that are of no more use, then the longest unused beyond the limit.

    What was removed, with the reason; clones that run go on. `newest` stays whatever it holds.
    """
    gone, kept = [f"{one}: its home is gone" for one in homeless.sweep(home)], []
    for one in templates.every(home):
        if one.automatic and one.name != newest:
            broken = templates.damage(one)
            gone += _removed(home, one, broken) if broken else []
            kept += [] if broken else [one]
    held = sum(map(_held_bytes, kept)) + _held_bytes(templates.load(home, newest))
    for one in sorted(kept, key=_last_use):
        if held <= limit_bytes():
            break
        held -= _held_bytes(one)
        gone += _removed(home, one, f"templates hold more than {limit_bytes() >> 20} MiB")
    return gone


def _removed(home: Path, template: Template, why: str) -> list[str]:
    try:
        templates.remove(home, template.name)
    except Failure:
        return []
    return [f"{template.name}: {why}"]


def _held_bytes(template: Template) -> int:
    try:
        return template.memory.stat().st_blocks * 512
    except OSError:
        return 0


def _last_use(template: Template) -> float:
    try:
        return template.folder.stat().st_mtime
    except OSError:
        return 0.0
