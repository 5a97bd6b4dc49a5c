"""Limits of one process, set from outside while it waits at its gate: prlimit(2) and the OOM score."""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence
from pathlib import Path

from host.errors import HostUnfit, Usage


def impose(pid: int, ulimits: Sequence[tuple[str, int, int]], oom_score_adj: int | None) -> None:
    """Set each (name, soft, hard) and the score; Usage for an unknown name, HostUnfit for one too high."""
    for name, soft, hard in ulimits:
        _limit(pid, name, soft, hard)
    if oom_score_adj is not None:
        _adjust_oom_score(pid, oom_score_adj)


def _limit(pid: int, name: str, soft: int, hard: int) -> None:
    number = getattr(resource, f"RLIMIT_{name.upper()}", None)
    if number is None:
        raise Usage("no such limit", repr(name), hint="for example nofile, nproc or memlock: prlimit(1)")
    try:
        resource.prlimit(pid, number, (soft, hard))
    except (OSError, ValueError, OverflowError) as error:
        hint = "soft at most hard, and hard at most our own: ulimit -H -a shows it"
        raise HostUnfit("cannot set the limit", f"{name}={soft}:{hard}", _why(error), hint) from None


def _why(error: Exception) -> str:
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)


def _adjust_oom_score(pid: int, score: int) -> None:
    try:
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(score))
    except OSError as error:
        why = os.strerror(error.errno or 0)
        hint = "a score below one's own takes CAP_SYS_RESOURCE; a higher one takes no right"
        raise HostUnfit("cannot set the OOM score to", str(score), why, hint) from None
