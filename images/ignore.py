"""Patterns over paths: `.dockerignore`, the wildcards of COPY, and `--exclude`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from host.errors import BadData


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of a `.dockerignore`: what it matches is left out, or with `!` taken in again."""

    regex: re.Pattern[str]
    takes: bool
    fixed: str


class Rules:
    """The rules in their order: the last one that matches a path or a parent of it decides."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.rules = [rule for line in lines if (rule := _rule(line))]
        self._returns = [rule.fixed for rule in self.rules if rule.takes]

    def leaves_out(self, path: str) -> bool:
        """Whether a path (no leading slash) is left out."""
        out = False
        for rule in self.rules:
            if rule.takes == out and _matches(rule, path):
                out = not rule.takes
        return out

    def may_return(self, directory: str) -> bool:
        """Whether something below a directory that is left out might be taken in again."""
        prefix = directory + "/"
        return any(f.startswith(prefix) or prefix.startswith(f) for f in self._returns)


def of_context(context: Path, dockerfile: Path) -> Rules:
    """The rules of a build: `DOCKERFILE.dockerignore` beside the Dockerfile, else the context's own file."""
    for path in (dockerfile.with_name(dockerfile.name + ".dockerignore"), context / ".dockerignore"):
        if path.is_file():
            return Rules(path.read_text().removeprefix("\ufeff").splitlines())
    return Rules(())


def _rule(line: str) -> Rule | None:
    line = line.strip()
    if not line or line.startswith("#"):
        return None
    takes = line.startswith("!")
    pattern = "/".join(p for p in line.removeprefix("!").strip().split("/") if p not in ("", "."))
    if not pattern:
        return None
    return Rule(compiled(pattern), takes, re.split(r"[*?\[\\]", pattern)[0])


def _matches(rule: Rule, path: str) -> bool:
    parts = path.split("/")
    return any(rule.regex.fullmatch("/".join(parts[: n + 1])) for n in range(len(parts)))


def compiled(pattern: str) -> re.Pattern[str]:
    """A regular expression for Go's filepath.Match with `**` for any number of directories."""
    out, at = "", 0
    while at < len(pattern):
        char = pattern[at]
        if pattern.startswith("**", at):
            at += 2
            if pattern.startswith("/", at):
                at += 1
                out += "(?:.*/)?"
            else:
                out += ".*"
            continue
        if char == "[":
            end = pattern.find("]", at + 2)
            if end < 0:
                raise BadData("cannot read the pattern", pattern, "a [ without its ]")
            inside = pattern[at + 1 : end]
            out += f"[^{inside[1:]}/]" if inside.startswith("^") else f"[{inside}]"
            at = end
        elif char == "\\" and at + 1 < len(pattern):
            at += 1
            out += re.escape(pattern[at])
        else:
            out += {"*": "[^/]*", "?": "[^/]"}.get(char) or re.escape(char)
        at += 1
    try:
        return re.compile(out, re.DOTALL)
    except re.error as error:
        raise BadData("cannot read the pattern", pattern, str(error)) from None


def has_wildcard(path: str) -> bool:
    """Whether a source of COPY is a pattern."""
    return any(char in path for char in "*?[")


def matching(pattern: str, paths: Sequence[str]) -> list[str]:
    """The paths that a pattern names, sorted."""
    regex = compiled(pattern)
    return sorted(path for path in paths if regex.fullmatch(path))
