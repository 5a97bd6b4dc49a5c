"""Why a machine did not come up: the tail of its serial console, classified, with what to do about it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from host.errors import DeadlinePassed, Failure

_TAIL_BYTES = 16 << 10
_SHOWN_LINES = 12
_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[a-zA-Z]|[()][A-Z0-9]|[=>c])|[\x00-\x08\x0b-\x1f\x7f]")


class Diagnosis(NamedTuple):
    """What the console shows: a word for the kind of trouble, the pattern that shows it, one sentence, a
    hint."""

    kind: str
    pattern: str
    sentence: str
    hint: str


# In order: the first that matches is the cause, later ones are its consequences.
KNOWN = (
    Diagnosis(
        "no-root",
        r"VFS: Unable to mount root|cannot mount the root|Cannot open root device|ALERT!.*does not exist",
        "the guest found no root device",
        "check --boot, --disk and the image's file system",
    ),
    Diagnosis(
        "helper",
        r"vmm-guest: cannot (?:execute|load|move|enter)",
        "the guest helper could not hand over to the image",
        "does the image have that program, and the kernel those modules?",
    ),
    Diagnosis(
        "no-memory",
        r"Out of memory|System is deadlocked on memory",
        "the guest ran out of memory",
        "give it more with --memory",
    ),
    Diagnosis("panic", r"Kernel panic", "the guest kernel panicked", "the last lines of its console say why"),
    Diagnosis(
        "emergency",
        r"emergency mode|emergency shell|Give root password for maintenance|dracut:/#",
        "the guest stands in an emergency shell",
        "vmm console NAME lets you look",
    ),
    Diagnosis(
        "grub",
        r"^(?:grub>|grub rescue>)|GNU GRUB",
        "the guest stands at the GRUB prompt",
        "vmm console NAME lets you choose",
    ),
    Diagnosis(
        "firmware",
        r"!!!! X64 Exception",
        "the UEFI firmware crashed",
        "OVMF wants 256 MiB at least: --memory 256M",
    ),
    Diagnosis(
        "no-boot",
        r"Shell> *$|UEFI Interactive Shell|No bootable device|not a bootable disk|BdsDxe: No bootable option",
        "the firmware found nothing to boot",
        "is the disk bootable? `--boot direct` starts a kernel without it",
    ),
    Diagnosis(
        "cloud-init",
        r"cloud-init\[\d+\]: .*(?:ERROR|Traceback|Failed)|Failed to start .*[Cc]loud-init",
        "cloud-init failed",
        "vmm exec NAME cloud-init status --long",
    ),
    Diagnosis(
        "no-address",
        r"No DHCPOFFERS received|Failed to start .*[Nn]etwork",
        "the guest got no address",
        "is its network there? vmm network inspect",
    ),
)

# What only the guest can tell: its console is silent about it.
NO_ADDRESS = next(one for one in KNOWN if one.kind == "no-address")


def classify(text: str) -> Diagnosis | None:
    """The known trouble that a console's text shows, or None."""
    for known in KNOWN:
        if re.search(known.pattern, text, re.MULTILINE):
            return known
    return None


def _cause(text: str, found: Diagnosis | None) -> str:
    """The line of the console that shows the trouble: a panic's trace may have pushed it out of sight."""
    lines = text.splitlines() if found else []
    return next((line for line in lines if found and re.search(found.pattern, line)), "")


def tail(path: Path, size_bytes: int = _TAIL_BYTES) -> str:
    """The end of a log as text without terminal escapes; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - size_bytes))
            data = file.read()
    except OSError:
        return ""
    return _ESCAPES.sub("", data.decode(errors="replace").replace("\r", ""))


def last_lines(text: str, count: int = _SHOWN_LINES) -> str:
    """The last lines that say something."""
    return "\n".join([line for line in text.splitlines() if line.strip()][-count:])


def _without_news(text: str) -> str:
    """QEMU's words without what it says when nothing is wrong: that it takes up a connection."""
    return "\n".join(line for line in text.splitlines() if ": info: " not in line)


def ended(name: str, folder: Path, exit_status: int | None) -> Failure:
    """The Failure for a machine whose QEMU ended before the guest was up."""
    said = last_lines(_without_news(tail(folder / "qemu.log")), 6)
    console = tail(folder / "serial.log")
    found = classify(console)
    how = f"QEMU ended with {exit_status}" if exit_status else "QEMU ended"
    if exit_status is not None and exit_status < 0:
        how = f"QEMU was killed by signal {-exit_status}"
    words = [found.sentence if found else f"{how} before the guest was up"]
    words += [said] if said else []
    hint = found.hint if found else _HINT_OF_SIGNAL.get(exit_status or 0) or _hint_of_qemu(said)
    return Failure("the machine did not start", name, _told(words, console, found), hint)


# SIGKILL and SIGBUS: what the kernel kills QEMU for, where nobody else did.
_HINT_OF_SIGNAL = {
    -9: "where nobody killed it, the host (or this cgroup) was out of memory: dmesg; "
    "give it less with --memory, or stop another machine",
    -7: "the file system of its memory is full: df /dev/shm; vmm template rm, or stop what fills it",
}


def cut_off(name: str, folder: Path) -> Failure:
    """The Failure for a machine that ended before its command did."""
    console = tail(folder / "serial.log")
    found = classify(console)
    words = [found.sentence if found else "QEMU is gone"]
    hint = found.hint if found else "its memory may have been too small for the host: vmm doctor, dmesg"
    return Failure("the machine ended before its command did", name, _told(words, console, found), hint)


def _hint_of_qemu(said: str) -> str:
    """What to do about the words that QEMU itself left."""
    if re.search(r"\bkvm\b", said, re.IGNORECASE):
        return "--accel tcg does without KVM; vmm doctor says what this host can do"
    if "Cannot allocate memory" in said:
        return "give it less with --memory, or stop another machine"
    if "Permission denied" in said:
        return "the user that QEMU runs as must reach the file; vmm doctor"
    return "the same words with --dry-run print the QEMU command, to be tried by hand"


def late(
    name: str, folder: Path, waited_for: str, timeout_s: float, seen: Diagnosis | None = None
) -> DeadlinePassed:
    """The Failure for a guest that did not reach what we waited for; `seen` is what the guest itself told."""
    console = tail(folder / "serial.log")
    found = classify(console) or seen
    words = [f"no sign of {waited_for} after {timeout_s:g} s"]
    words += [found.sentence] if found else []
    hint = (
        found.hint
        if found
        else "VMM_BOOT_TIMEOUT_S=120 waits longer; --append loglevel=7 lets the kernel talk"
    )
    return DeadlinePassed("the machine did not come up", name, _told(words, console, found), hint)


def _told(words: list[str], console: str, found: Diagnosis | None) -> str:
    shown = last_lines(console)
    cause = _cause(console, found)
    words = [*words, cause] if cause and cause not in shown else words
    end = ["the end of its serial console:", shown] if shown else ["its serial console is silent"]
    return "\n".join([*words, *end])
