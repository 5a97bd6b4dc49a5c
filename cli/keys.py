"""The keys that leave a terminal without ending what runs in it, as docker writes them."""

from __future__ import annotations

from host.errors import Usage

DEFAULT = b"\x10\x11"  # ctrl-p,ctrl-q


def parse(text: str | None) -> bytes:
    """The bytes that a terminal sends for `ctrl-p,ctrl-q` or `ctrl-],q`; raises Usage for other words."""
    if text is None:
        return DEFAULT
    import re

    found = b""
    for word in text.split(","):
        if re.fullmatch(r"ctrl-[a-z@\[\\\]^_]", word):
            found += bytes([ord(word[-1].upper()) & 0x1F])
        elif len(word) == 1 and word.isascii() and word.isprintable():
            found += word.encode()
        else:
            hint = "for example ctrl-p,ctrl-q or ctrl-]"
            raise Usage("cannot read the detach keys", repr(text), f"{word!r} is no key", hint)
    return found
