"""Every predicate of the register, with two synthetic data sets that must flip it; and what must never be
judged."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.claims.effects import Effect, experiment_of, side
from bench.claims.register import Bound, Claim, Predicate, Where, bound, parse, register
from bench.claims.verdicts import Finding, judge, to_record, would_take
from bench.core.sample import Sample
from bench.core.stats import Interval
from host.errors import BadData

ALL = [(claim, predicate) for claim in register() for predicate in claim.predicates]
NAMES = [f"{claim.id}-{predicate.name}" for claim, predicate in ALL]


def sides(limit: Bound) -> tuple[float, float]:
    """A value well inside a bound, and one well outside."""
    span = abs(limit.low) * 0.5 or 0.5
    if limit.sign == "within":
        middle = (limit.low + limit.high) / 2
        return middle, limit.high * 3
    if limit.sign == "==":
        return limit.low, limit.low + 1
    above, below = limit.low + span, limit.low - span
    return (above, below) if limit.sign in (">", ">=") else (below, above)


def place(claim: Claim, where: Where, block: int, **fields: object) -> Sample:
    """One good sample of a predicate's cell."""
    made = Sample(
        campaign="synthetic", plan_hash="", experiment=experiment_of(where, claim.id), cell="",
        target=where.target or "ct", image=where.image or "tiny", mode=where.mode or "workload", block=block,
        order=block, warmup=False, status="ok", accelerator=where.accelerator or None, host={"id": "one"},
    )  # fmt: skip
    return replace(made, **fields)  # type: ignore[arg-type]


def carrying(value: str, number: float) -> dict[str, dict[str, float]]:
    """Sample fields from which the reader gets this number for that value."""
    edges = re.fullmatch(r"(t\d)\.\.(t\d)", value)
    if edges:  # an offset, so that a negative difference is still a time
        return {"edges_ns": {edges[1]: 10**12, edges[2]: 10**12 + round(number * 1e9)}}
    if "/" in value:
        top, base = value.split("/")
        return {"values": {top: number * 64, base: 64.0}}
    if "-" in value:
        top, base = value.split("-")
        return {"values": {top: number + 64, base: 64.0}}
    return {"values": {value: number}}


def samples_with(claim: Claim, predicate: Predicate, wanted: float) -> Iterator[Sample]:
    """Samples whose effect is `wanted`, with a little spread where the effect is statistical."""
    for block in range(max(predicate.minimum, 6)):
        wiggle = 1 + 0.001 * (block % 3 - 1) if predicate.effect != "all" else 1.0
        if predicate.effect in ("median", "all"):
            yield place(claim, predicate.cell, block, **carrying(predicate.value, wanted * wiggle))
        elif predicate.effect == "ratio":
            yield place(claim, predicate.cell, block, **carrying(predicate.value, 2.0 * wanted * wiggle))
            yield place(claim, predicate.base or Where(), block, **carrying(predicate.value, 2.0))
        elif predicate.effect == "difference":
            yield place(claim, predicate.cell, block, **carrying(predicate.value, 1.0 + wanted * wiggle))
            yield place(claim, predicate.base or Where(), block, **carrying(predicate.value, 1.0))
        else:
            yield from sloped(claim, predicate, block, wanted, wiggle)


def sloped(claim: Claim, predicate: Predicate, block: int, wanted: float, wiggle: float) -> Iterator[Sample]:
    count = float(block + 1)
    above = {predicate.over: count, predicate.value: 1e6 * wanted * count * wiggle}
    yield place(claim, predicate.cell, block, values=above)
    if predicate.base:
        yield place(
            claim, predicate.base, block, values={predicate.over: count, predicate.value: 1e6 * count}
        )


def alone(claim: Claim, predicate: Predicate) -> Claim:
    """The claim with one of its predicates only, so that its verdict is that predicate's."""
    return replace(claim, predicates=(predicate,))


def test_the_register_has_all_sixty_seven_claims() -> None:
    assert [claim.id for claim in register()] == [f"C{number}" for number in range(1, 68)]


def test_the_expected_list_stands_in_the_files() -> None:
    words = [claim.expected for claim in register()]
    assert words.count("documentary") <= 8
    assert all(
        word in ("confirmed", "refuted", "qualified", "documentary", "not testable here") for word in words
    )


@pytest.mark.parametrize(("claim", "predicate"), ALL, ids=NAMES)
def test_two_data_sets_flip_every_predicate(claim: Claim, predicate: Predicate) -> None:
    one = alone(claim, predicate)
    inside, outside = sides(predicate.bound)
    assert judge(one, list(samples_with(claim, predicate, inside))).word == "confirmed"
    assert judge(one, list(samples_with(claim, predicate, outside))).word == "refuted"


@pytest.mark.parametrize(("claim", "predicate"), ALL, ids=NAMES)
def test_fewer_samples_than_the_plan_says_decide_nothing(claim: Claim, predicate: Predicate) -> None:
    inside, _ = sides(predicate.bound)
    few = [one for one in samples_with(claim, predicate, inside) if one.block < predicate.minimum - 1]
    assert judge(alone(claim, predicate), few).word in ("undecided", "not testable here")


@pytest.mark.parametrize(("claim", "predicate"), ALL, ids=NAMES)
def test_mixed_accelerators_and_mixed_hosts_decide_nothing(claim: Claim, predicate: Predicate) -> None:
    inside, _ = sides(predicate.bound)
    made = list(samples_with(claim, predicate, inside))
    if not predicate.cell.accelerator:
        mixed = [replace(one, accelerator="kvm" if one.block % 2 else "tcg") for one in made]
        verdict = judge(alone(claim, predicate), mixed)
        assert verdict.word in ("undecided", "not testable here")
        assert "mixed" in verdict.findings[0].effect.lacking
    hosts = [replace(one, host={"id": f"host-{one.block % 2}"}) for one in made]
    verdict = judge(alone(claim, predicate), hosts)
    assert verdict.word in ("undecided", "not testable here")
    assert "hosts" in verdict.findings[0].effect.lacking


@pytest.mark.parametrize(("claim", "predicate"), ALL, ids=NAMES)
def test_warm_ups_and_failures_count_for_nothing(claim: Claim, predicate: Predicate) -> None:
    inside, _ = sides(predicate.bound)
    made = list(samples_with(claim, predicate, inside))
    for spoiled in ({"warmup": True}, {"status": "failed", "error": "boom"}, {"status": "skipped"}):
        verdict = judge(alone(claim, predicate), [replace(one, **spoiled) for one in made])  # type: ignore[arg-type]
        assert verdict.word in ("undecided", "not testable here")


@pytest.mark.parametrize(
    "claim", [one for one in register() if one.expected == "qualified"], ids=lambda one: one.id
)
def test_a_qualified_claim_has_a_cell_on_each_side(claim: Claim) -> None:
    """Qualified is reachable: one predicate inside, another outside, both named in the reason."""
    assert len(claim.predicates) >= 2
    inside, outside = claim.predicates[0], claim.predicates[-1]
    only = replace(claim, predicates=(inside, outside))
    made = [*samples_with(claim, inside, sides(inside.bound)[0])]
    made += samples_with(claim, outside, sides(outside.bound)[1])
    if not overlapping(inside, outside):
        verdict = judge(only, merged(made))
        assert verdict.word == "qualified"
        assert inside.words in verdict.reason
        assert outside.words in verdict.reason


def overlapping(one: Predicate, other: Predicate) -> bool:
    """True where the two predicates read the same value, so that no data set can serve both."""
    return bool(set(re.split(r"[/-]", one.value)) & set(re.split(r"[/-]", other.value)))


def merged(samples: list[Sample]) -> list[Sample]:
    """Samples of one cell and block joined into one, as a probe prints several numbers at once."""
    found: dict[tuple[str, str, str, int], Sample] = {}
    for one in samples:
        key = (one.experiment, one.target, one.image, one.block)
        there = found.get(key)
        found[key] = replace(one, values={**there.values, **one.values}) if there else one
    return list(found.values())


def test_another_unit_decides_nothing() -> None:
    """A value in KiB is not the value in bytes, however alike their names are."""
    claim = next(one for one in register() if one.id == "C20")
    predicate = claim.predicates[0]
    made = [place(claim, predicate.cell, block, values={"allocated_kib": 0.0}) for block in range(6)]
    verdict = judge(claim, made)
    assert verdict.word == "undecided"
    assert "no sample has allocated_bytes" in verdict.reason


def test_a_ratio_over_noise_below_zero_decides_nothing() -> None:
    """MemAvailable may rise while processes start: 300 KiB over -1 KiB is not less than 1.1."""
    claim = next(one for one in register() if one.id == "C13")
    predicate = next(one for one in claim.predicates if one.name == "host")
    values = {"container_kib": 300.0, "process_kib": -1.0}
    made = [place(claim, predicate.cell, block, values=values) for block in range(6)]
    assert judge(alone(claim, predicate), made).word == "undecided"


def test_most_runs_failed_decides_nothing() -> None:
    claim, predicate = ALL[0]
    inside, _ = sides(predicate.bound)
    made = list(samples_with(claim, predicate, inside))
    failed = [replace(one, status="timeout", error="late", edges_ns={}) for one in [*made, *made]]
    verdict = judge(alone(claim, predicate), [*made, *failed])
    assert verdict.word == "not testable here" or verdict.word == "undecided"
    assert "failed" in verdict.findings[0].effect.lacking


def test_an_interval_across_the_bound_is_undecided() -> None:
    claim, predicate = next((c, p) for c, p in ALL if c.id == "C1" and p.name == "debian-boot")
    made = [
        place(claim, predicate.cell, block, edges_ns={"t0": 0, "t8": int((40 + 8 * block) * 1e9)})
        for block in range(6)
    ]
    assert judge(alone(claim, predicate), made).word == "undecided"


def test_an_undecided_claim_says_what_it_would_take() -> None:
    """An interval twice as wide as its distance from the bound needs four times the samples."""
    claim, predicate = next((c, p) for c, p in ALL if c.id == "C39" and p.name == "hash")
    across = replace(predicate, bound=Bound("<=", 1.1))
    finding = Finding(across, Effect(Interval(1.0, 0.9, 1.2), 9), "across")
    assert "about 36 samples of this spread instead of 9" in would_take(finding)
    same = replace(finding, effect=Effect(Interval(1.1, 0.9, 1.2), 9))
    assert "another bound" in would_take(same)
    every = replace(finding, predicate=replace(across, effect="all"))
    assert "on one side" in would_take(every)
    assert "vmm claims run C39" in judge(claim, []).reason


def test_a_wide_interval_is_no_equivalence() -> None:
    """No difference has to be shown, not merely not found: noise must not confirm."""
    claim = next(one for one in register() if one.id == "C38")
    predicate = claim.predicates[0]
    noise = (0.7, 1.3, 0.8, 1.2, 1.0, 0.9)
    made = []
    for block, value in enumerate(noise):
        made.append(place(claim, predicate.cell, block, values={"hashing_s": value}))
        made.append(place(claim, predicate.base or Where(), block, values={"hashing_s": 1.0}))
    assert judge(claim, made).word == "undecided"


def test_a_missing_target_is_told_with_its_reason() -> None:
    claim = next(one for one in register() if one.id == "C10")
    missing = place(claim, claim.predicates[0].cell, 0, status="skipped", error="docker is not installed")
    verdict = judge(claim, [missing])
    assert verdict.word == "not testable here"
    assert "make peers" in verdict.reason


def test_documentary_claims_stand_on_evidence_only() -> None:
    for claim in register():
        if claim.expected == "documentary":
            verdict = judge(claim, [])
            assert verdict.word == "documentary"
            assert len(claim.evidence) >= 2


def test_claims_that_contradict_each_other_say_so_on_both_sides() -> None:
    known = {claim.id: claim for claim in register()}
    pairs = [(claim.id, other) for claim in register() for other in claim.contradicts]
    assert pairs
    for one, other in pairs:
        assert one in known[other].contradicts


def test_a_record_has_all_that_a_report_tells() -> None:
    record = to_record(judge(register()[0], []))
    assert record["verdict"] == "undecided"
    assert record["claim"]["mechanism"]
    assert record["findings"][0]["lacking"]


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6), st.sampled_from([">", ">=", "<", "<="]), st.floats(-1e6, 1e6))
def test_inside_and_outside_exclude_each_other(low: float, width: float, sign: str, limit: float) -> None:
    """Whatever the interval, the opposite bound gives the opposite side."""
    opposite = {">": "<=", ">=": "<", "<": ">=", "<=": ">"}[sign]
    interval = Interval(low, low, low + width)
    found = side(interval, Bound(sign, limit)), side(interval, Bound(opposite, limit))
    assert found in (("inside", "outside"), ("outside", "inside"), ("across", "across"))


@pytest.mark.parametrize("words", ["", "60", "=> 3", "within 1", ">= 1 2", "within a b"])
def test_a_bound_that_is_none_is_refused(words: str) -> None:
    with pytest.raises(ValueError, match="not a bound"):
        bound(words)


@pytest.mark.parametrize(
    "text",
    [
        "id = 1",
        'id = "C1"',
        '[[predicates]]\nname = "x"',
        'id = "C1"\ntitle = "t"\nstatement = "s"\nsources = ["S9"]\nchapter = "start-up"\n'
        'expected = "refuted"\nmechanism = ""\nchange = ""\nexercise = ""\nlacking = "x"',
        'id = "C1"\ntitle = "t"\nstatement = "s"\nsources = ["S1"]\nchapter = "start-up"\n'
        'expected = "refuted"\nmechanism = ""\nchange = ""\nexercise = ""',
    ],
)
def test_a_broken_claim_file_is_one_clear_error(text: str) -> None:
    with pytest.raises(BadData, match="broken"):
        parse(text, "broken.toml")
