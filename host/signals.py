"""Signals by name, as users and images write them."""

from __future__ import annotations

import signal

from host.errors import Usage


def number(word: str) -> int:
    """The number of `TERM`, `SIGTERM`, `RTMIN+3` (it stops systemd) or `15`; Usage for anything else."""
    if word.isascii() and word.isdigit() and 0 < int(word) < signal.NSIG:
        return int(word)
    name, plus, more = word.upper().removeprefix("SIG").partition("+")
    found = getattr(signal, f"SIG{name}", None)
    if isinstance(found, signal.Signals) and (not plus or (more.isascii() and more.isdigit())):
        told = int(found) + int(more or 0)
        if told < signal.NSIG:
            return told
    raise Usage("no signal", repr(word), hint="for example TERM, HUP or 9; kill -l lists them")


def name(number: int) -> str:
    """`SIGTERM`, or `SIGRTMIN+3` for one that has no name of its own."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"
