"""summary.md: the same sentences and tables for a terminal, an issue or a hand-in."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from reports.page import Page
from reports.sections import Part
from reports.tables import MedianTable

# Everything that could start markup, a link or HTML in a name that came from a results file.
_MARKUP = re.compile(r"([\\`*_\[\]<>|#!~])")


def markdown(page: Page) -> str:
    """The whole summary; figures stay with index.html, their numbers are here."""
    lines = [f"# {page.title}", "", _text(page.lead), ""]
    for remark in page.remarks:
        lines += [f"> {_text(remark)}", ""]
    if not page.sections:
        lines.append(page.empty)
    for section in page.sections:
        body = [line for part in section.parts for line in _part(part)]
        lines += [f"## {section.title}", "", *body]
    return "\n".join(lines).rstrip() + "\n"


def _part(part: Part) -> Iterator[str]:
    if part.kind == "medians":
        yield from [
            f"### {_text(part.title)}",
            "",
            *_medians(part.content),
            "",
            _text(part.content.caption),
            "",
        ]
    elif part.kind == "figure":
        table = part.content.table
        yield from [f"### {_text(part.content.title)}", "", *_table(table.head, table.rows), ""]
        yield from [_text(part.content.caption), ""]
    elif part.kind in ("answers", "list"):
        yield from [*(f"{number}. {_text(words)}" for number, words in enumerate(part.content, 1)), ""]
    elif part.kind == "facts":
        yield from [*(f"- {_text(name)}: {_text(words)}" for name, words in part.content), ""]
    elif part.kind == "table":
        yield from [f"### {_text(part.title)}", "", *_table(part.content.head, part.content.rows), ""]
    elif part.kind == "slider":
        head = (part.content.label, *part.content.columns, "ratio")
        steps = [(step.name, step.first, step.second, step.ratio) for step in part.content.steps]
        yield from [f"### {_text(part.content.title)}", "", *_table(head, steps), ""]
    elif part.kind == "practice":
        for level in part.content:
            asked = [*level.questions, *(f"{name}: {words}" for name, words in level.data)]
            yield from [f"### {_text(level.name)}", "", *(f"- {_text(words)}" for words in asked), ""]
    elif part.kind == "cards":
        rows = [(card.id, card.title, card.verdict, card.reason) for card in part.content]
        yield from [*_table(("claim", "statement", "verdict", "why"), rows), ""]
    elif part.kind == "code":
        yield from [f"    {line}" for line in str(part.content).splitlines()]
        yield ""


def _medians(table: MedianTable) -> list[str]:
    head = ("target", "n", "failed", "median", "95 % interval", table.ratio_head, "95 % interval")
    rows = [
        (row.label, str(row.n), str(row.failed), row.median, row.interval, row.ratio, row.ratio_interval)
        for row in table.rows
    ]
    return _table(head, rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *("---:" for _ in head[1:])]
    return [_line(head), f"| {' | '.join(rule)} |", *(_line(row) for row in rows)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(_text(cell) for cell in cells)} |"


def _text(words: str) -> str:
    return _MARKUP.sub(r"\\\1", " ".join(words.split()))
