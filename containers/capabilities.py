"""Capability names and masks: capabilities(7), linux/capability.h."""

from __future__ import annotations

from collections.abc import Iterable

from host.errors import Usage

NAMES = tuple(
    """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
    NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT
    SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE
    AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ
    PERFMON BPF CHECKPOINT_RESTORE
    """.split()  # noqa: SIM905 - a table of words
)
_NUMBER = {name: number for number, name in enumerate(NAMES)}


def mask(capabilities: Iterable[str] | None) -> int:
    """The bit mask of capability names, with or without CAP_; None is all. Raises Usage for unknown ones."""
    if capabilities is None:
        return (1 << len(NAMES)) - 1
    bits = 0
    for word in capabilities:
        name = word.upper().removeprefix("CAP_")
        if name == "ALL":
            return mask(None)
        if name not in _NUMBER:
            raise Usage(
                "cannot grant the capability", word, "there is none of that name", "see capabilities(7)"
            )
        bits |= 1 << _NUMBER[name]
    return bits


def names(bits: int) -> list[str]:
    """The capability names in a mask."""
    return [name for number, name in enumerate(NAMES) if bits >> number & 1]


def adjusted(base: Iterable[str], add: Iterable[str], drop: Iterable[str]) -> tuple[str, ...]:
    """`base` with --cap-drop taken away and --cap-add put on top; ALL is understood on both sides."""
    kept, added, dropped = mask(base), mask(add), mask(drop)
    return tuple(names(kept & ~dropped | added & ~(0 if _explicit(add) else dropped)))


def _explicit(add: Iterable[str]) -> bool:
    """Whether the added ones are named one by one: these win over `--cap-drop ALL`, as in docker."""
    return all(word.upper() != "ALL" for word in add)
