"""The names of images: `[HOST[:PORT]/]NAME[:TAG][@DIGEST]`.

Source: OCI distribution-spec v1.1 ("Pulling manifests"), and docker's reference grammar for the host part.
"""

from __future__ import annotations

import re

from host.errors import Usage
from host.typing import NamedTuple

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_HOST_FORM = re.compile(_HOST)
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MAX_NAME = 255


class Reference(NamedTuple):
    """A parsed image name; `host` is empty where none is said, `tag` where only a digest is."""

    host: str
    path: str
    tag: str
    digest: str = ""

    @property
    def repository(self) -> str:
        """Host and path, without tag and digest."""
        return f"{self.host}/{self.path}" if self.host else self.path

    @property
    def tagged(self) -> str:
        """The name under which the store lists it: repository and tag."""
        return f"{self.repository}:{self.tag}" if self.tag else self.repository

    def __str__(self) -> str:
        return self.tagged + (f"@{self.digest}" if self.digest else "")


def parse(text: str) -> Reference:
    """The Reference in a text; Usage when it is out of grammar. The tag is `latest` where nothing is said."""
    rest, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise _bad(text, f"{digest!r} is not a digest", "a digest is sha256: and 64 hex digits")
    rest, tag = _split_tag(rest)
    host, path = _split_host(rest)
    if host and not _HOST_FORM.fullmatch(host):
        raise _bad(text, f"{host!r} is not HOST[:PORT]", "write it as HOST:PORT/NAME:TAG")
    if not _PATH.fullmatch(path):
        raise _bad(text, f"{path!r} is not a name", "names are a-z 0-9 parted by . _ - and /")
    if len(rest) > _MAX_NAME:
        raise _bad(text, f"it is longer than {_MAX_NAME} characters", "choose a shorter name")
    if tag is not None and not _TAG.fullmatch(tag):
        raise _bad(
            text,
            f"{tag!r} is not a tag",
            "tags are at most 128 of A-Z a-z 0-9 _ . - and begin with no . or -",
        )
    return Reference(host, path, tag if tag is not None else ("" if digest else "latest"), digest)


def is_digest(text: str) -> bool:
    """Whether the text is a `sha256:` digest."""
    return _DIGEST.fullmatch(text) is not None


def _split_tag(text: str) -> tuple[str, str | None]:
    name, colon, tag = text.rpartition(":")
    if colon and "/" not in tag:
        return name, tag
    return text, None


def _split_host(text: str) -> tuple[str, str]:
    # As docker: the first component is a host only if it could not be a name: it has a dot or a port, or is
    # localhost.
    first, slash, rest = text.partition("/")
    if slash and (first == "localhost" or "." in first or ":" in first or first != first.lower()):
        return first, rest
    return "", text


def _bad(text: str, why: str, hint: str) -> Usage:
    return Usage("cannot read the image name", repr(text), why, hint)
