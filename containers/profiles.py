"""A seccomp profile of the user's own: docker's JSON (moby/profiles/seccomp), whose rules may hang on
capabilities.

What hangs on capabilities, architecture or kernel is decided here; what is left is the runtime-spec's
`linux.seccomp`, which containers.oci.filters compiles.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from host.errors import BadData, NotFound

_MACHINE = {"x86_64": "amd64", "aarch64": "arm64"}
_MAX_FILE_BYTES = 1 << 20


def program(path: str, capabilities: frozenset[str], cache: Path) -> bytes:
    """The BPF of a profile file for a container with these capabilities.

    Raises NotFound, BadData for what is no profile, HostUnfit without libseccomp.
    """
    from containers.oci import filters

    return filters.program(
        chosen(_read(path), capabilities, _MACHINE.get(os.uname().machine, "")), str(cache)
    )


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            profile = json.loads(file.read(_MAX_FILE_BYTES))
    except OSError as error:
        raise NotFound("cannot read the seccomp profile", path, os.strerror(error.errno or 0)) from None
    except ValueError as error:
        raise BadData("cannot use the seccomp profile", path, str(error)) from None
    if not isinstance(profile, dict) or not str(profile.get("defaultAction", "")).startswith("SCMP_ACT_"):
        raise BadData("cannot use the seccomp profile", path, "it names no defaultAction")
    return profile


def chosen(profile: dict[str, Any], capabilities: frozenset[str], machine: str) -> dict[str, Any]:
    """The profile with only the rules that hold here, in the runtime-spec's words: pure."""
    groups = []
    for group in profile.get("syscalls") or ():
        if not _holds(group, capabilities, machine):
            continue
        names = group.get("names") or [group["name"]]
        kept = {key: group[key] for key in ("action", "errnoRet", "args") if group.get(key) is not None}
        groups.append({"names": names, **kept})
    told: dict[str, Any] = {
        key: profile[key] for key in ("defaultAction", "defaultErrnoRet") if key in profile
    }
    return {**told, "architectures": profile.get("architectures") or [], "syscalls": groups}


def _holds(group: dict[str, Any], capabilities: frozenset[str], machine: str) -> bool:
    wanted, unwanted = group.get("includes") or {}, group.get("excludes") or {}
    if not _caps(wanted) <= capabilities or _caps(unwanted) & capabilities:
        return False
    if wanted.get("arches") and machine not in wanted["arches"]:
        return False
    if machine in (unwanted.get("arches") or ()):
        return False
    return not wanted.get("minKernel") or _kernel() >= _version(wanted["minKernel"])


def _caps(condition: dict[str, Any]) -> set[str]:
    return {name.removeprefix("CAP_") for name in condition.get("caps") or ()}


def _kernel() -> tuple[int, int]:
    return _version(os.uname().release)


def _version(text: str) -> tuple[int, int]:
    major, minor, *_ = text.split(".")
    return int(major), int("".join(one for one in minor if one.isdigit()) or 0)
