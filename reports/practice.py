"""The page's exercises at three levels; the answers are a file of their own, so that a class can be given the
page."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from reports.exercises import EXERCISES
from reports.sections import Part, Section

# Level -> (the chapter that a question is about, the question); without its chapter a question is left out.
LEVELS = {
    "read a figure": (
        ("start-up", "Which target's starts spread widest? Would a second campaign change the order?"),
        ("phases", "Which phase takes most of a machine's start? How much quicker would it be without it?"),
        ("density", "Which kind of memory grows with N in a machine and hardly in a container? Why?"),
    ),
    "change a parameter and predict": (
        ("play", "Move the end point from t8 to t4. Predict the ratio of machine over container first."),
        ("cold", "Predict both starts from a cold cache, then switch. Which target reads more files?"),
        ("density", "Predict how many would fit with twice the memory each; then measure it with --memory."),
    ),
    "design a control": (
        (
            "drift",
            "Runs were ordered at random within blocks. Which disturbance would still favour one target?",
        ),
        (
            "start-up",
            "Somebody starts containers without a network and machines with one. Which cell is missing?",
        ),
    ),
}


@dataclass(frozen=True)
class Level:
    """One level: questions about this page, and data sets with a flaw to find."""

    name: str
    questions: tuple[str, ...]
    data: tuple[tuple[str, str], ...]


def practice_section(there: Collection[str]) -> Section | None:
    """What a class does with the page; None for a page without a figure to ask about."""
    asked = {
        name: tuple(words for about, words in questions if about in there)
        for name, questions in LEVELS.items()
    }
    if not any(asked.values()):
        return None
    levels = [
        Level(name, questions, tuple((one.name, one.question) for one in EXERCISES if one.level == name))
        for name, questions in asked.items()
    ]
    words = (
        "Three levels. The first questions of each are about this page; then come data sets that look fine "
        "and are not: vmm report exercises writes them, each in a folder of its own, with the answers in a "
        "separate answers.md.",
    )
    return Section("exercises", "Exercises", "Now you", words, (Part("practice", levels),))
