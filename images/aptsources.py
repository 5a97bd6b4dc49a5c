"""Where this host gets Debian packages from, so that a base image comes from the same place.

Source: sources.list(5), both its one-line and its deb822 form.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from host.errors import HostUnfit

_ONE_LINE = re.compile(
    r"deb\s+(?:\[(?P<options>[^]]*)]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<components>.+)"
)


@dataclass(frozen=True, slots=True)
class Source:
    """One archive: its address, one suite, the components, and the key file that signs it (or nothing)."""

    uri: str
    suite: str
    components: str
    signed_by: str = ""

    def line(self) -> str:
        """The source in one-line form."""
        options = f"[signed-by={self.signed_by}] " if self.signed_by else ""
        return f"deb {options}{self.uri} {self.suite} {self.components}"


def of_host(suite: str = "", etc: Path = Path("/etc")) -> list[Source]:
    """The host's Debian archives, for `suite` (a codename) or the host's own release.

    The same archives serve another suite: the codename is exchanged, `-updates` and `-security` stay.
    HostUnfit where the host is no Debian or has no sources.
    """
    own = codename(etc)
    found = [source for source in _all(etc) if source.suite == own or source.suite.startswith(own + "-")]
    if not own or not found:
        why = (
            "its apt has no source for its own release"
            if own
            else "it is no Debian: /etc/os-release has no codename"
        )
        hint = "build the image on a Debian host, or import a cloud image: vmm image import URL"
        raise HostUnfit("cannot make a Debian image on this host", why=why, hint=hint)
    wanted = suite or own
    return [replace(source, suite=wanted + source.suite.removeprefix(own)) for source in found]


def codename(etc: Path = Path("/etc")) -> str:
    """The codename of the host's release, such as `bookworm`, or nothing (os-release(5))."""
    try:
        text = (etc / "os-release").read_text()
    except FileNotFoundError:
        return ""
    match = re.search(r'^VERSION_CODENAME="?([a-z]+)"?$', text, re.MULTILINE)
    return match[1] if match else ""


def _all(etc: Path) -> Iterator[Source]:
    parts = etc / "apt" / "sources.list.d"
    for path in (etc / "apt" / "sources.list", *sorted(parts.glob("*.list"))):
        if path.is_file():
            yield from _one_line(path.read_text())
    for path in sorted(parts.glob("*.sources")):
        yield from _deb822(path.read_text())


def _one_line(text: str) -> Iterator[Source]:
    for line in text.splitlines():
        match = _ONE_LINE.match(line.partition("#")[0].strip())
        if match:
            key = re.search(r"signed-by=(\S+)", match["options"] or "")
            yield Source(match["uri"], match["suite"], match["components"].strip(), key[1] if key else "")


def _deb822(text: str) -> Iterator[Source]:
    for stanza in re.split(r"\n\s*\n", text):
        told = _fields(stanza)
        if "deb" not in told.get("types", "").split() or told.get("enabled", "yes") in ("no", "false"):
            continue
        key = told.get("signed-by", "")
        for uri in told.get("uris", "").split():
            for suite in told.get("suites", "").split():
                yield Source(uri, suite, told.get("components", ""), key if key.startswith("/") else "")


def _fields(stanza: str) -> dict[str, str]:
    told: dict[str, str] = {}
    name = ""
    for line in stanza.splitlines():
        if line.startswith("#"):
            continue
        if line[:1].isspace() and name:
            told[name] += " " + line.strip()
        elif ":" in line:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            told[name] = value.strip()
    return told
