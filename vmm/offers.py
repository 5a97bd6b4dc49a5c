"""What a QEMU program has to offer, asked of the program itself: its version, and ways to load a state."""

from __future__ import annotations

import json
import subprocess
from typing import Any, NamedTuple

from host.errors import CommandFailed, HostUnfit
from vmm import confine

_QUESTIONS = ("qmp_capabilities", "query-migrate-capabilities")
_TRY = ("mapped-ram", "postcopy-ram")
_LIMIT_S = 20.0


class Offers(NamedTuple):
    """`on_demand`: it could load pages of a mapped-ram file while the guest runs (fast-snapshot-load.rst);
    else `why_not`, in QEMU's words.
    """

    version: str
    mapped_ram: bool
    on_demand: bool
    why_not: str = ""


def of(qemu: str) -> Offers:
    """Ask the program, then once more with the rights that a machine's has, where these make a difference.

    Raises HostUnfit where it is not there, CommandFailed where it does not answer.
    """
    found = _asked([qemu])
    return _asked([*confine.confinement((), False).prefix(False), qemu]) if found.on_demand else found


def _asked(words: list[str]) -> Offers:
    argv = [*words, "-M", "none", "-nodefaults", "-no-user-config", "-display", "none"]
    argv += ["-qmp", "stdio", "-incoming", "defer"]
    tried = {"capabilities": [{"capability": name, "state": True} for name in _TRY]}
    asked: list[dict[str, Any]] = [{"execute": one} for one in _QUESTIONS]
    asked += [{"execute": "migrate-set-capabilities", "arguments": tried}, {"execute": "quit"}]
    try:
        done = subprocess.run(
            argv,
            input="".join(json.dumps(one) + "\n" for one in asked),
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
            check=False,
        )
    except FileNotFoundError:
        raise HostUnfit("cannot ask QEMU", why=f"{words[-1]} is not installed") from None
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    answers = [one for one in told if one.keys() & {"return", "error"}]
    if len(answers) < len(_QUESTIONS) + 1:
        raise CommandFailed(f"cannot ask {words[-1]} what it has", argv, done.returncode, done.stderr)
    version = told[0]["QMP"]["version"]["qemu"]
    known = {one["capability"] for one in answers[1]["return"]}
    refused = str(answers[2].get("error", {}).get("desc", ""))
    return Offers(
        f"{version['major']}.{version['minor']}.{version['micro']}",
        "mapped-ram" in known,
        "mapped-ram" in known and not refused,
        refused,
    )
