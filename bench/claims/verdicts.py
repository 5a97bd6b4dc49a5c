"""Verdicts: what the predicates of a claim say together, from the samples alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.claims.effects import Effect, effect, side
from bench.claims.register import Claim, Predicate
from bench.core.sample import Sample


@dataclass(frozen=True)
class Finding:
    """One predicate's outcome: `inside`, `outside`, `across` its border, or `open` for want of samples."""

    predicate: Predicate
    effect: Effect
    side: str


@dataclass(frozen=True)
class Verdict:
    """The claim's verdict with what it stands on."""

    claim: Claim
    word: str
    reason: str
    findings: tuple[Finding, ...]


def judge(claim: Claim, samples: Sequence[Sample]) -> Verdict:
    """The verdict of one claim; documentary ones stand on their evidence, not on samples."""
    if not claim.predicates:
        if claim.finding:
            return Verdict(claim, "documentary", claim.finding, ())
        return Verdict(claim, "not testable here", claim.lacking, ())
    findings = tuple(_finding(one, samples, claim.id) for one in claim.predicates)
    word, reason = _together(claim, findings)
    return Verdict(claim, word, reason, findings)


def _finding(predicate: Predicate, samples: Sequence[Sample], claim_id: str) -> Finding:
    found = effect(predicate, samples, claim_id)
    return Finding(predicate, found, side(found.interval, predicate.bound) if found.interval else "open")


def _together(claim: Claim, findings: Sequence[Finding]) -> tuple[str, str]:
    """Confirmed or refuted need every required predicate; one inside and one outside make it qualified."""
    inside = [one for one in findings if one.side == "inside"]
    outside = [one for one in findings if one.side == "outside"]
    unclear = [one for one in findings if one.side == "across"]
    missing = [one for one in findings if one.side == "open" and not one.predicate.optional]
    if inside and outside:
        return "qualified", f"holds: {inside[0].predicate.words}; does not hold: {outside[0].predicate.words}"
    if missing:
        told = "; ".join(dict.fromkeys(one.effect.lacking for one in missing))
        if claim.lacking or all(one.effect.skipped for one in missing):
            return "not testable here", claim.lacking or told
        return (
            "undecided",
            f"still open: {told}; it would take `vmm claims run {claim.id}` where that can run",
        )
    if unclear:
        one = unclear[0]
        across = f"the interval of “{one.predicate.words}” lies across {one.predicate.bound}"
        return "undecided", f"{across}; it would take {would_take(one)}"
    if inside:
        return "confirmed", inside[0].predicate.words
    if outside:
        return "refuted", f"does not hold: {outside[0].predicate.words}"
    return "not testable here", claim.lacking or "; ".join(one.effect.lacking for one in findings)


def would_take(one: Finding) -> str:
    """What would decide a predicate whose interval lies across its bound: an interval narrows with the root
    of n.
    """
    found = one.effect.interval
    if found is None:
        return "samples"
    if one.predicate.effect == "all":
        return "runs that all fall on one side: a quieter host, or a cause for those that differ"
    bound = one.predicate.bound
    limits = [bound.low, bound.high] if bound.sign == "within" else [bound.low]
    crossed = [limit for limit in limits if found.low <= limit <= found.high]
    ways = [(found.estimate - found.low if limit < found.estimate else found.high - found.estimate, limit)
            for limit in crossed]  # fmt: skip
    if any(limit == found.estimate for limit in crossed):
        return "another bound: the effect is the bound itself, and no number of runs decides that"
    factor = max(((width / (found.estimate - limit)) ** 2 for width, limit in ways), default=1.0)
    return f"about {math.ceil(one.effect.n * factor)} samples of this spread instead of {one.effect.n}"


def to_record(verdict: Verdict) -> dict[str, Any]:
    """JSON's types, with the claim's whole wording: reports need nothing else."""
    claim = asdict(verdict.claim)
    for one in claim["probes"]:
        one["targets"] = list(one["targets"])
    return {
        "record": "verdict",
        "verdict": verdict.word,
        "reason": verdict.reason,
        "claim": claim,
        "findings": [_finding_record(one) for one in verdict.findings],
    }


def _finding_record(one: Finding) -> dict[str, Any]:
    interval = one.effect.interval
    return {
        "name": one.predicate.name,
        "words": one.predicate.words,
        "effect": one.predicate.effect,
        "value": one.predicate.value,
        "unit": one.predicate.unit,
        "bound": str(one.predicate.bound),
        "side": one.side,
        "n": one.effect.n,
        "accelerators": list(one.effect.accelerators),
        "lacking": one.effect.lacking,
        "estimate": interval.estimate if interval else None,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
    }
