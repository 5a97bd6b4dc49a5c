"""verdicts.json: what a campaign's samples say to every claim, beside results.jsonl; reports read it, nobody
edits it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bench.claims.register import VERDICTS, Claim
from bench.claims.verdicts import Verdict, judge, to_record
from bench.core.sample import Sample
from host import records

FILE_NAME = "verdicts.json"


def judged(claims: Sequence[Claim], samples: Sequence[Sample]) -> list[Verdict]:
    """One verdict a claim, in the register's order."""
    return [judge(claim, samples) for claim in claims]


def write(folder: Path, verdicts: Sequence[Verdict]) -> Path:
    """Put the verdicts beside the samples, as a whole."""
    path = folder / FILE_NAME
    records.write(path, {"schema_version": 1, "verdicts": [to_record(one) for one in verdicts]})
    return path


def counted(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """How many claims got each verdict, in the fixed order of the words."""
    found = Counter(one.word for one in verdicts)
    return {word: found[word] for word in VERDICTS if found[word]}


def decided(verdicts: Sequence[Verdict]) -> int:
    """How many are neither undecided nor out of reach here."""
    return sum(one.word not in ("undecided", "not testable here") for one in verdicts)
