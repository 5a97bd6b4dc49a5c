"""The claims chapter: verdict matrix, forest plot and cards, from verdicts.json alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reports import units
from reports.figures.forest import Effect, forest_figure
from reports.sections import Part, Section

FILE_NAME = "verdicts.json"
MARKS = {
    "confirmed": "✓",
    "refuted": "✕",
    "qualified": "≈",
    "undecided": "?",
    "not testable here": "–",
    "documentary": "§",
}
CSS = {word: f"verdict-{index}" for index, word in enumerate(MARKS)}


@dataclass(frozen=True)
class Line:
    """One predicate on a card, as words."""

    words: str
    side: str
    told: str


@dataclass(frozen=True)
class Card:
    """One claim as the page shows it."""

    id: str
    title: str
    statement: str
    chapter: str
    verdict: str
    expected: str
    reason: str
    mark: str
    css: str
    lines: tuple[Line, ...]
    mechanism: str
    caveats: tuple[str, ...]
    contradicts: tuple[str, ...]
    published: tuple[str, ...]
    evidence: tuple[str, ...]
    scripts: tuple[tuple[str, str], ...]
    change: str
    exercise: str


@dataclass(frozen=True)
class Chip:
    """One square of the matrix."""

    id: str
    title: str
    verdict: str
    mark: str
    css: str


def load(folder: Path) -> list[dict[str, Any]]:
    """The verdicts beside a results file; none where there are none, or where the file is no such thing."""
    try:
        found = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))["verdicts"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    if not isinstance(found, list):
        return []
    return [one for one in found if isinstance(one, dict) and {"record", "claim", "findings"} <= one.keys()]


def claims_sections(records: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Two chapters: the cards, and after them all verdicts at a glance, which would give the cards away."""
    if not records:
        return []
    cards = [_card(record) for record in records]
    count = Counter(card.verdict for card in cards)
    told = ", ".join(f"{count[word]} {word}" for word in MARKS if count[word])
    forest = forest_figure(_effects(records))
    parts = [Part("matrix", _matrix(cards), "Verdicts by subject"), Part("legend", _legend(count))]
    parts += [Part("figure", forest)] if forest else []
    words = (
        f"{len(cards)} statements from texts that people learn from, each with a predicate that was "
        "declared before "
        f"it was measured: {told}. A verdict is confirmed or refuted only where the whole interval lies on "
        "one side.",
    )
    advice = (
        "Read the statement, decide what you expect, then open the card. A wrong guess teaches more than a "
        "right one. All verdicts together stand behind the cards.",
    )
    return [
        Section("cards", "Claim cards", "Predict, then look", advice, (Part("cards", cards),)),
        Section("claims", "Verdicts", "What the textbooks say, judged", words, tuple(parts)),
    ]


def _card(record: Mapping[str, Any]) -> Card:
    claim = record["claim"]
    word = record["verdict"]
    return Card(
        id=claim["id"],
        title=claim["title"],
        statement=claim["statement"],
        chapter=claim["chapter"],
        verdict=word,
        expected=claim["expected"],
        reason=record["reason"],
        mark=MARKS.get(word, "?"),
        css=CSS.get(word, CSS["undecided"]),
        lines=tuple(_line(one) for one in record["findings"]),
        mechanism=claim["mechanism"],
        caveats=tuple(claim["caveats"]),
        contradicts=tuple(claim["contradicts"]),
        published=tuple(f"{one['words']} ({one['source']})" for one in claim["published"]),
        evidence=tuple(claim["evidence"]),
        scripts=tuple(
            (f"{one['name']} on {', '.join(one['targets'])}", one["script"]) for one in claim["probes"]
        ),
        change=claim["change"],
        exercise=claim["exercise"],
    )


SIDES = {"inside": "holds", "outside": "does not hold", "across": "undecided", "open": "not measured"}


def _line(one: Mapping[str, Any]) -> Line:
    if one["estimate"] is None:
        return Line(one["words"], SIDES["open"], one["lacking"])
    middle, low, high = (in_unit(one[name], one["unit"]) for name in ("estimate", "low", "high"))
    under = f", under {', '.join(one['accelerators']).upper()}" if one["accelerators"] else ""
    spread = middle if low == high else f"{middle} ({low} to {high})"
    asked = one["bound"] if not one["unit"] else f"{one['bound']} {one['unit']}"
    return Line(one["words"], SIDES[one["side"]], f"{spread}, asked: {asked}, n = {one['n']}{under}")


def in_unit(value: float, unit: str) -> str:
    """A number in the unit that its predicate names."""
    if unit == "s":
        return units.seconds(value)
    if unit == "B":
        return units.size(value)
    return f"{units.significant(value)}{unit}"


def _matrix(cards: Sequence[Card]) -> list[tuple[str, list[Chip]]]:
    """Chapters in the order of their first claim, each with its chips."""
    rows: dict[str, list[Chip]] = {}
    for card in cards:
        chip = Chip(card.id, card.title, card.verdict, card.mark, card.css)
        rows.setdefault(card.chapter, []).append(chip)
    return list(rows.items())


def _legend(count: Mapping[str, int]) -> list[tuple[str, str, str]]:
    return [(MARKS[word], CSS[word], f"{count[word]} {word}") for word in MARKS if count[word]]


def _effects(records: Sequence[Mapping[str, Any]]) -> list[Effect]:
    """The findings that an interval can be drawn of, against a bound that is a number above zero."""
    made = []
    for record in records:
        for one in record["findings"]:
            sign, _, rest = one["bound"].partition(" ")
            limit = float(rest.split(" ")[0])
            if one["estimate"] is None or one["effect"] == "all" or limit <= 0 or one["low"] <= 0:
                continue
            made.append(_effect(record["claim"], one, sign, limit))
    return made


def _effect(claim: Mapping[str, Any], one: Mapping[str, Any], sign: str, limit: float) -> Effect:
    published = [shown["value"] for shown in claim["published"] if shown["value"]]
    return Effect(
        label=f"{claim['id']} {one['name']}",
        told=in_unit(one["estimate"], one["unit"]),
        asked=f"{one['bound']} {one['unit']}".strip(),
        low=one["low"] / limit,
        middle=one["estimate"] / limit,
        high=one["high"] / limit,
        css=f"side-{one['side']}",
        side=SIDES[one["side"]],
        n=one["n"],
        published=tuple(value / limit for value in published if value > 0),
    )
