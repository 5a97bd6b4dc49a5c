"""The command line of vmm-oci taken apart: flags as docker, containerd and podman send them."""

from __future__ import annotations

from typing import NamedTuple

from host.errors import Usage

# flag -> whether it takes a value. Short forms follow runc's.
GLOBAL = {
    "--root": True,
    "--log": True,
    "--log-format": True,
    "--debug": False,
    "--systemd-cgroup": False,
    "--rootless": True,
    "--criu": True,
    "--cgroup-manager": True,
    "--version": False,
    "--help": False,
}
_CREATE = {
    "--bundle": True,
    "--console-socket": True,
    "--pid-file": True,
    "--pidfd-socket": True,
    "--no-pivot": False,
    "--no-new-keyring": False,
    "--preserve-fds": True,
}
_EXEC = {
    "--process": True,
    "--console-socket": True,
    "--pid-file": True,
    "--pidfd-socket": True,
    "--cwd": True,
    "--env": True,
    "--user": True,
    "--additional-gids": True,
    "--cap": True,
    "--apparmor": True,
    "--process-label": True,
    "--cgroup": True,
    "--preserve-fds": True,
    "--tty": False,
    "--detach": False,
    "--no-new-privs": False,
    "--ignore-paused": False,
}
_UPDATE = {
    "--resources": True,
    "--memory": True,
    "--memory-swap": True,
    "--memory-reservation": True,
    "--cpu-shares": True,
    "--cpu-period": True,
    "--cpu-quota": True,
    "--cpuset-cpus": True,
    "--cpuset-mems": True,
    "--pids-limit": True,
    "--blkio-weight": True,
}
COMMANDS: dict[str, dict[str, bool]] = {
    "create": _CREATE,
    "run": {**_CREATE, "--detach": False, "--keep": False, "--no-subreaper": False},
    "start": {},
    "state": {},
    "kill": {"--all": False},
    "delete": {"--force": False},
    "exec": _EXEC,
    "list": {"--format": True, "--quiet": False},
    "ps": {"--format": True},
    "pause": {},
    "resume": {},
    "update": _UPDATE,
    "features": {},
    "spec": {"--bundle": True, "--rootless": False},
}
_SHORT = {
    "-b": "--bundle",
    "-d": "--detach",
    "-f": "--format",
    "-p": "--process",
    "-e": "--env",
    "-u": "--user",
    "-g": "--additional-gids",
    "-c": "--cap",
    "-t": "--tty",
    "-q": "--quiet",
    "-a": "--all",
    "-r": "--resources",
    "-v": "--version",
    "-h": "--help",
}
_PER_COMMAND = {("delete", "-f"): "--force"}
Flags = dict[str, list[str]]


class Words(NamedTuple):
    """The command line taken apart."""

    globals: Flags
    command: str
    flags: Flags
    rest: list[str]

    def one(self, flag: str, default: str = "") -> str:
        """The last value of a flag."""
        return (self.flags.get(flag) or [default])[-1]


def parse(argv: list[str]) -> Words:
    """Global flags, the command, its flags, and the rest, which begins at the first word that is no flag."""
    top, rest = _flags(argv, GLOBAL, "")
    if not rest:
        return Words(top, "", {}, [])
    command, *words = rest
    if command not in COMMANDS:
        raise Usage("no command", repr(command), hint=f"there are {', '.join(COMMANDS)}")
    flags, rest = _flags(words, COMMANDS[command], command)
    return Words(top, command, flags, rest)


def _flags(words: list[str], known: dict[str, bool], command: str) -> tuple[Flags, list[str]]:
    flags: Flags = {}
    at = 0
    while at < len(words) and words[at].startswith("-") and words[at] != "-":
        word = words[at]
        at += 1
        if word == "--":
            break
        name, equals, value = word.partition("=")
        name = _PER_COMMAND.get((command, name)) or _SHORT.get(name, name)
        if not name.startswith("--"):
            name = f"-{name}"  # Go's flag package reads -root as --root
        if name not in known:
            raise Usage(f"no flag {word!r} of vmm-oci {command}".rstrip())
        if known[name] and not equals:
            if at == len(words):
                raise Usage(f"the flag {name} needs a value")
            value, at = words[at], at + 1
        flags.setdefault(name, []).append(value)
    return flags, words[at:]
