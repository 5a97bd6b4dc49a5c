"""linux.seccomp of a bundle as BPF: compiled by libseccomp, kept by the digest of its words."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from typing import Any

from containers.oci.bundle import Config
from host.errors import BadData, HostUnfit

OPERATORS = {
    "SCMP_CMP_NE": "NE",
    "SCMP_CMP_LT": "LT",
    "SCMP_CMP_LE": "LE",
    "SCMP_CMP_EQ": "EQ",
    "SCMP_CMP_GE": "GE",
    "SCMP_CMP_GT": "GT",
    "SCMP_CMP_MASKED_EQ": "MASKED_EQ",
}
ACTIONS = (
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_TRAP",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_LOG",
)
ARCHITECTURES = ("SCMP_ARCH_X86", "SCMP_ARCH_X86_64", "SCMP_ARCH_X32", "SCMP_ARCH_ARM", "SCMP_ARCH_AARCH64")
_VERSION = "1"


def program(profile: Config, cache: str) -> bytes:
    """The BPF of a profile, from `cache` where it was compiled before; empty where there is no profile."""
    if not profile or not profile.get("defaultAction"):
        return b""
    words = json.dumps(profile, sort_keys=True) + _VERSION + os.uname().machine
    path = os.path.join(cache, hashlib.sha256(words.encode()).hexdigest()[:32] + ".bpf")
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        pass
    compiled = compile_profile(profile)
    os.makedirs(cache, mode=0o700, exist_ok=True)
    temp = f"{path}.{os.getpid()}"
    with open(temp, "wb") as file:
        file.write(compiled)
    os.rename(temp, path)
    return compiled


def compile_profile(profile: Config) -> bytes:
    """Compile with libseccomp; HostUnfit without it, BadData for words that it does not know."""
    try:
        import pyseccomp as seccomp
    except (ImportError, RuntimeError, OSError) as error:
        raise HostUnfit(
            "cannot compile the seccomp filter", why=str(error), hint="apt-get install libseccomp2"
        ) from None
    _refuse_notify(profile)
    default = _action(seccomp, profile["defaultAction"], profile.get("defaultErrnoRet"))
    rules = seccomp.SyscallFilter(default)
    _architectures(seccomp, rules, profile)
    for group in profile.get("syscalls") or ():
        action = _action(seccomp, group["action"], group.get("errnoRet"))
        if action != default:  # libseccomp refuses a rule that says what happens anyway
            for name in group.get("names") or ():
                _add(seccomp, rules, action, name, group.get("args") or [])
    from containers.seccomp import _exported as exported

    return exported(rules)


def _refuse_notify(profile: Config) -> None:
    if profile.get("listenerPath") or "SCMP_ACT_NOTIFY" in str(profile):
        raise BadData(
            "cannot use the seccomp profile", "SCMP_ACT_NOTIFY", "user notification is not known here"
        )


def _action(seccomp: Any, name: str, number: int | None) -> int:
    code = errno.EPERM if number is None else number
    known = {
        "SCMP_ACT_KILL": seccomp.KILL,
        "SCMP_ACT_KILL_THREAD": seccomp.KILL,
        "SCMP_ACT_KILL_PROCESS": getattr(seccomp, "KILL_PROCESS", 0x80000000),
        "SCMP_ACT_TRAP": seccomp.TRAP,
        "SCMP_ACT_ERRNO": seccomp.ERRNO(code),
        "SCMP_ACT_TRACE": seccomp.TRACE(code),
        "SCMP_ACT_ALLOW": seccomp.ALLOW,
        "SCMP_ACT_LOG": seccomp.LOG,
    }
    if name not in known:
        raise BadData("cannot use the seccomp profile", name, "an unknown action")
    return int(known[name])


def _architectures(seccomp: Any, rules: Any, profile: Config) -> None:
    for name in profile.get("architectures") or ():
        known = getattr(seccomp.Arch, name.removeprefix("SCMP_ARCH_"), None)
        if known is None:
            continue  # another machine's: nothing of it runs here
        try:
            rules.add_arch(known)
        except (OSError, ValueError):
            pass  # the native one is there already; libseccomp refuses those of another byte order


def _add(seccomp: Any, rules: Any, action: int, name: str, args: list[Config]) -> None:
    conditions = [
        seccomp.Arg(
            one["index"], getattr(seccomp, OPERATORS[one["op"]]), one.get("value", 0), one.get("valueTwo", 0)
        )
        for one in args
    ]
    indexes = [one["index"] for one in args]
    # one argument twice means "or": a rule each, as runc has it
    groups = [conditions] if len(set(indexes)) == len(indexes) else [[one] for one in conditions]
    for group in groups:
        try:
            rules.add_rule(action, name, *group)
        except (OSError, ValueError):
            pass  # libseccomp or this machine does not know the call
