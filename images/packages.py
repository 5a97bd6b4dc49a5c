"""Debian packages, downloaded and unpacked without being installed, of the host's architecture or another.

For another one apt gets a state and a cache of its own (apt.conf(5), Dir and APT::Architecture): `dpkg
--add-architecture` would change the host for everybody.
"""

from __future__ import annotations

import os
from pathlib import Path

from host import commands, records
from host.errors import BadData, CommandFailed, HostUnfit
from images import aptsources

# uname -m -> Debian's word
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_NO_PACKAGE = "apt-get update, and a source for it in /etc/apt"


def debian_architecture(machine: str = "") -> str:
    """Debian's word for a machine (the host's own); HostUnfit for one that we know no packages of."""
    machine = machine or os.uname().machine
    if machine not in ARCHITECTURES:
        raise HostUnfit(
            "cannot choose Debian packages", machine, f"known are {', '.join(ARCHITECTURES)}", "--kernel FILE"
        )
    return ARCHITECTURES[machine]


def apt(home: Path, machine: str = "", update: bool = False) -> tuple[str, ...]:
    """The options that make apt one of `machine`; none for the host's own.

    Its package lists lie in the cache of `home`, fetched on first use and by `update`. Raises HostUnfit where
    the host has no Debian sources, CommandFailed with apt's words.
    """
    if machine in ("", os.uname().machine):
        return ()
    folder = home / "cache" / "apt" / debian_architecture(machine)
    words = _options(folder, debian_architecture(machine))
    for part in ("state/lists/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    with records.lock(folder / ".lock", wait_s=900):
        if update or not (folder / "fetched").exists():
            (folder / "state" / "status").touch()
            sources = "".join(f"{source.line()}\n" for source in aptsources.of_host())
            records.write_bytes(folder / "sources.list", sources.encode())
            argv = ["apt-get", "-qq", *words, "-o", "APT::Sandbox::User=root", "update"]
            commands.run(argv, f"cannot fetch the package lists of {machine}", timeout_s=600)
            (folder / "fetched").touch()
    return words


def _options(folder: Path, architecture: str) -> tuple[str, ...]:
    settings = {
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "Dir::State": folder / "state",
        "Dir::State::status": folder / "state" / "status",
        "Dir::Cache": folder / "cache",
        "Dir::Etc::SourceList": folder / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
    }
    return tuple(word for key, value in settings.items() for word in ("-o", f"{key}={value}"))


def unpacked(package: str, scratch: Path, options: tuple[str, ...] = ()) -> Path:
    """The tree of a package's files below `scratch`; HostUnfit where apt cannot give it."""
    what = f"cannot download {package}"
    # apt would download as the user _apt, who cannot write our private directory
    argv = ["apt-get", "-qq", *options, "-o", "APT::Sandbox::User=root", "download", package]
    try:
        commands.run(argv, what, timeout_s=600, cwd=scratch)
    except CommandFailed as error:
        raise HostUnfit(what, "", error.log, _NO_PACKAGE) from None
    archive = next(scratch.glob("*.deb"), None)
    if archive is None:
        raise BadData(what, why="apt-get download left no package")
    tree = scratch / "tree"
    commands.run(["dpkg-deb", "-x", str(archive), str(tree)], f"cannot unpack {package}", timeout_s=300)
    return tree
