"""Read a Dockerfile: directives, continued lines, here-documents, flags, and the exec form of commands.

Source: docker's "Dockerfile reference". What the instructions do is in images.build.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from host.errors import BadData

WORDS = (
    "ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "MAINTAINER",
    "ONBUILD", "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR",
)  # fmt: skip
_FLAGS = {
    "FROM": {"platform"},
    "RUN": {"mount", "network", "security"},
    "COPY": {"from", "chown", "chmod", "link", "exclude", "parents"},
    "ADD": {"from", "chown", "chmod", "link", "exclude", "checksum", "keep-git-dir"},
    "HEALTHCHECK": {"interval", "timeout", "start-period", "start-interval", "retries"},
}
_HEREDOC_WORDS = ("RUN", "COPY", "ADD")
_DIRECTIVE = re.compile(r"#\s*([a-z]+)\s*=\s*(\S.*?)\s*$", re.IGNORECASE)
_HEREDOC = re.compile(r"(?:^|(?<=\s))\d*<<(-?)([\"']?)([A-Za-z_][\w.]*)\2(?=[\s>;|&)]|$)")
_FLAG = re.compile(r"--([a-z][a-z-]*)(?:=(\S*))?(?:\s+|$)")


@dataclass(frozen=True, slots=True)
class HereDoc:
    """A here-document: its name, its lines, and whether variables in it are expanded."""

    name: str
    content: str
    expands: bool


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: `rest` is its text without flags; `exec_form` the words, where it is a JSON list."""

    word: str
    rest: str
    line: int
    flags: tuple[tuple[str, str], ...] = ()
    exec_form: tuple[str, ...] | None = None
    heredocs: tuple[HereDoc, ...] = ()
    escape: str = "\\"

    def flag(self, name: str) -> str | None:
        """The last value of a flag, empty where it has none, None where it is not there."""
        found = [value for key, value in self.flags if key == name]
        return found[-1] if found else None

    def __str__(self) -> str:
        flags = "".join(f"--{key}={value} " if value else f"--{key} " for key, value in self.flags)
        return f"{self.word} {flags}{self.rest}"


def parse(text: str) -> list[Instruction]:
    """The instructions of a Dockerfile; BadData, with the line, for what is out of its grammar."""
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
    escape = _escape(lines)
    found = [_instruction(number, line, docs, escape) for number, line, docs in _logical(lines, escape)]
    if not found:
        raise BadData("cannot read the Dockerfile", why="it has no instructions")
    return found


def broken(line: int, why: str, hint: str = "") -> BadData:
    """The error for a line of a Dockerfile."""
    return BadData("cannot build", f"Dockerfile line {line}", why, hint)


def _escape(lines: list[str]) -> str:
    """The `escape` directive: only before everything else, comments included."""
    for line in lines:
        match = _DIRECTIVE.match(line.strip())
        if not match:
            break
        if match[1].lower() == "escape":
            if match[2] not in ("\\", "`"):
                raise broken(1, f"escape={match[2]}: it is a backslash or a backtick")
            return match[2]
    return "\\"


def _logical(lines: list[str], escape: str) -> Iterator[tuple[int, str, tuple[HereDoc, ...]]]:
    """Logical lines with the number of their first: continued lines joined, comments inside them left out."""
    at = 0
    while at < len(lines):
        if not lines[at].strip() or lines[at].lstrip().startswith("#"):
            at += 1
            continue
        first, text = at, ""
        while at < len(lines):
            line = lines[at]
            at += 1
            if text and (line.lstrip().startswith("#") or not line.strip()):
                continue
            body = line.rstrip()
            if not body.endswith(escape):
                text += line
                break
            text += body[: -len(escape)]
        docs, at = _heredocs(text, lines, at, first + 1)
        yield first + 1, text.strip(), docs


def _heredocs(text: str, lines: list[str], at: int, number: int) -> tuple[tuple[HereDoc, ...], int]:
    word, _, rest = text.strip().partition(" ")
    if word.upper() == "ONBUILD":
        word, _, rest = rest.strip().partition(" ")
    if word.upper() not in _HEREDOC_WORDS or _json_words(_without_flags(rest)) is not None:
        return (), at
    found = []
    for dash, quote, name in _HEREDOC.findall(rest):
        content = []
        while True:
            if at >= len(lines):
                raise broken(number, f"the here-document <<{name} has no end")
            line = lines[at].lstrip("\t") if dash else lines[at]
            at += 1
            if line == name:
                break
            content.append(line + "\n")
        found.append(HereDoc(name, "".join(content), not quote))
    return tuple(found), at


def _instruction(number: int, text: str, docs: tuple[HereDoc, ...], escape: str) -> Instruction:
    word, rest = [*text.split(None, 1), ""][:2]
    word = word.upper()
    if word not in WORDS:
        near = [known for known in WORDS if known[:3] == word[:3]]
        raise broken(number, f"unknown instruction {word}", f"did you mean {near[0]}?" if near else "")
    flags, rest = _split_flags(word, rest.strip(), number)
    if not rest and word not in ("CMD", "ENTRYPOINT"):
        raise broken(number, f"{word} needs at least one word")
    return Instruction(word, rest, number, flags, _json_words(rest), docs, escape)


def _split_flags(word: str, rest: str, number: int) -> tuple[tuple[tuple[str, str], ...], str]:
    flags: list[tuple[str, str]] = []
    known = _FLAGS.get(word, set())
    while known and (match := _FLAG.match(rest)):
        if match[1] not in known:
            raise broken(number, f"{word} has no flag --{match[1]}", "it has --" + ", --".join(sorted(known)))
        flags.append((match[1], match[2] or ""))
        rest = rest[match.end() :]
    return tuple(flags), rest


def _without_flags(rest: str) -> str:
    while match := _FLAG.match(rest.lstrip()):
        rest = rest.lstrip()[match.end() :]
    return rest


def _json_words(rest: str) -> tuple[str, ...] | None:
    """The words of the exec form; None for the shell form, which is whatever is no JSON list of texts."""
    if not rest.lstrip().startswith("["):
        return None
    try:
        words = json.loads(rest)
    except ValueError:
        return None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        return None
    return tuple(words)
