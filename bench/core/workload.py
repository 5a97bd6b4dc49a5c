"""Work inside an instance, timed from outside: under emulation the guest's clock drifts, the host's not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from bench.core.target import MARKER, Cell, Parts, Target

_TOLD = re.compile(r"^([a-z][a-z0-9_]*)=(-?\d+(?:\.\d+)?)\s*$", re.MULTILINE)


def script(target: Target, cell: Cell, body: str) -> Parts:
    """Run shell lines in a fresh instance.

    `work_s` is the host's time from the line before them to the line after; what they print as `name=number`
    are values too. The body must not end the shell. A root without devices fails instead of being quick.
    """
    inside = f"test -c /dev/zero || exit 9\necho begin\n{body}\necho {MARKER}"
    parts = target.run_once(replace(cell, command=("sh", "-c", inside)))
    if parts.status == "ok" and MARKER not in parts.output:
        return replace(parts, status="failed", error=f"the work did not end: {parts.output[-200:]!r}")
    return replace(parts, values={**parts.values, **told(parts.output)})


def told(output: str) -> dict[str, float]:
    """The numbers that a command printed as `name=number`, one a line."""
    return {name: float(value) for name, value in _TOLD.findall(output)}


def per_second(parts: Parts, what: str, amount: float) -> Parts:
    """The report with a rate, `WHAT_per_second`, beside the time that the work took."""
    took_s = parts.values.get("work_s", 0.0)
    return with_values(parts, {f"{what}_per_second": amount / took_s}) if took_s else parts


def with_values(parts: Parts, values: Mapping[str, float]) -> Parts:
    """The report with more values."""
    return replace(parts, values={**parts.values, **values})


def skipped(why: str, hint: str = "") -> Parts:
    """The report of a target that has nothing of what the experiment is about."""
    return Parts("skipped", error=why, hint=hint or None)
