"""Variables and quotes in the words of a Dockerfile: its reference's "Environment replacement"."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping

from host.errors import BadData

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9]+")


def expand(word: str, variables: Mapping[str, str], escape: str = "\\", keep_quotes: bool = False) -> str:
    """The word with its variables replaced and its quotes taken away.

    `$NAME`, `${NAME}`, `${NAME:-word}`, `:+`, `:?` (with and without the colon), `#`, `##`, `%`, `%%`, `/`,
    `//`. Single quotes keep variables as they are. BadData for a broken `${` or a `?` that fails.
    """
    return _Reader(word, variables, escape, keep_quotes).run()


def split(text: str, escape: str = "\\") -> list[str]:
    """The words of a text, blanks inside quotes kept, the quotes too."""
    words, word, quote, at = [], "", "", 0
    while at < len(text):
        char = text[at]
        if char == escape and quote != "'" and at + 1 < len(text):
            word += text[at : at + 2]
            at += 2
            continue
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char.isspace():
            if word:
                words.append(word)
            word, at = "", at + 1
            continue
        word, at = word + char, at + 1
    return [*words, word] if word else words


class _Reader:
    """Reads one word from left to right."""

    def __init__(self, text: str, variables: Mapping[str, str], escape: str, keep_quotes: bool) -> None:
        self.text, self.variables, self.escape, self.keep = text, variables, escape, keep_quotes
        self.at = 0

    def run(self) -> str:
        return self._until("")

    def _until(self, end: str) -> str:
        """Read up to an unquoted `end`, which is taken; to the end of the text where it is empty."""
        out, quote = "", ""
        while self.at < len(self.text):
            char = self.text[self.at]
            if end and not quote and char == end:
                self.at += 1
                return out
            if char == self.escape and quote != "'" and self.at + 1 < len(self.text):
                out += self._escaped(quote)
            elif char == "$" and quote != "'":
                out += self._variable()
            else:
                if char in "\"'" and quote in ("", char):
                    quote = "" if quote else char
                    out += char if self.keep else ""
                else:
                    out += char
                self.at += 1
        if end:
            raise BadData("cannot expand", self.text, f"a ${{ without its {end}")
        return out

    def _escaped(self, quote: str) -> str:
        following = self.text[self.at + 1]
        self.at += 2
        if quote == '"' and following not in f'"${self.escape}':
            return self.escape + following
        return self.escape + following if self.keep else following

    def _variable(self) -> str:
        self.at += 1
        braces = self.text[self.at : self.at + 1] == "{"
        self.at += braces
        match = _NAME.match(self.text, self.at)
        if not match:
            if braces:
                raise BadData("cannot expand", self.text, "${ is followed by no name")
            return "$"
        self.at = match.end()
        value = self.variables.get(match[0])
        return self._modified(match[0], value) if braces else value or ""

    def _modified(self, name: str, value: str | None) -> str:
        rest = self.text[self.at :]
        if rest.startswith("}"):
            self.at += 1
            return value or ""
        for operator in (":-", ":+", ":?", "-", "+", "?", "##", "#", "%%", "%", "//", "/"):
            if rest.startswith(operator):
                self.at += len(operator)
                return _OPERATORS[operator.lstrip(":")](self, name, value, operator.startswith(":"))
        raise BadData("cannot expand", self.text, f"${{{name} is followed by {rest[:1]!r}")

    def default(self, _name: str, value: str | None, empty_too: bool) -> str:
        word = self._until("}")
        return word if value is None or (empty_too and not value) else value

    def alternative(self, _name: str, value: str | None, empty_too: bool) -> str:
        word = self._until("}")
        return "" if value is None or (empty_too and not value) else word

    def demand(self, name: str, value: str | None, empty_too: bool) -> str:
        word = self._until("}")
        if value is None or (empty_too and not value):
            raise BadData("cannot expand", self.text, f"{name}: {word or 'it is not set'}")
        return value

    def cut(self, _name: str, value: str | None, _colon: bool) -> str:
        longest = self.text[self.at - 2] == self.text[self.at - 1]
        operator = self.text[self.at - 1]
        return _cut(value or "", self._until("}"), operator == "#", longest)

    def replace(self, _name: str, value: str | None, _colon: bool) -> str:
        everywhere = self.text[self.at - 2 : self.at] == "//"
        pattern = self._until("/")
        new = self._until("}")
        regex = re.compile(
            fnmatch.translate(pattern).removesuffix("\\Z").replace("(?s:", "(?:", 1), re.DOTALL
        )
        return regex.sub(lambda _: new, value or "", count=0 if everywhere else 1)


_OPERATORS: dict[str, Callable[[_Reader, str, str | None, bool], str]] = {
    "-": _Reader.default,
    "+": _Reader.alternative,
    "?": _Reader.demand,
    "#": _Reader.cut,
    "##": _Reader.cut,
    "%": _Reader.cut,
    "%%": _Reader.cut,
    "/": _Reader.replace,
    "//": _Reader.replace,
}


def _cut(value: str, pattern: str, front: bool, longest: bool) -> str:
    """Take the shortest or longest match of a pattern off the front or the end (POSIX sh, 2.6.2)."""
    sizes = range(len(value) + 1)
    for size in reversed(sizes) if longest else sizes:
        part = value[:size] if front else value[len(value) - size :]
        if fnmatch.fnmatchcase(part, pattern):
            return value[size:] if front else value[: len(value) - size]
    return value
