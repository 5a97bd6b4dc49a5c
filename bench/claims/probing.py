"""Claims -> the plan that can judge them: standard cells of start, memory and disk, and the claims' own
probes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from bench.claims.effects import experiment_of
from bench.claims.register import Claim, Predicate, Probe, Where, claim_of
from bench.core.plan import Group, Plan
from bench.core.target import Cell, Measure, Parts, Target

_LINE = re.compile(r"^([a-z][a-z0-9_]*) (-?\d+(?:\.\d+)?(?:e-?\d+)?)\r?$", re.MULTILINE)
# Seconds that a start of a target takes here, for the estimate only.
EXPECT_S = {"default": 1.0, "vm": 4.0, "vm-libvirt": 5.0, "docker": 1.0}
QUICK_RUNS = 5
_ORDER = {"start": 0, "memory": 1, "memory-slope": 2, "disk": 3}


def plan_of(claims: Sequence[Claim], quick: bool) -> Plan:
    """One plan for all the claims; a cell that several of them need is there once, with the most runs asked
    for."""
    groups = [
        *_standard(claims, quick),
        *(_probe_group(claim, probe) for claim in claims for probe in claim.probes),
    ]
    names = "+".join(claim.id for claim in claims) if len(claims) <= 4 else f"{len(claims)}-claims"
    question = "What textbooks say about machines and containers"
    return Plan(f"claims-{names}", question, 1, tuple(groups))


def _standard(claims: Sequence[Claim], quick: bool) -> list[Group]:
    """Groups of the standard experiments: which targets each mode and image needs."""
    needed: dict[tuple[str, str, str], dict[str, int]] = {}
    for where, predicate in _places(claims):
        if where.probe or not where.target:
            continue
        targets = needed.setdefault((where.experiment, where.mode, where.image), {})
        targets[where.target] = max(targets.get(where.target, 0), predicate.minimum)
    made = []
    for (experiment, mode, image), targets in sorted(needed.items(), key=lambda one: _rank(one[0])):
        least = max(targets.values())
        runs = least if quick else max(least, 10)
        made.append(
            Group(
                experiment, mode, image, tuple(sorted(targets)), runs=runs, expect_s=EXPECT_S, deadline_s=120
            )
        )
    return made


def _rank(key: tuple[str, str, str]) -> tuple[int, tuple[str, str, str]]:
    return (_ORDER.get(key[0], 9), key)


def _places(claims: Iterable[Claim]) -> Iterable[tuple[Where, Predicate]]:
    for claim in claims:
        for predicate in claim.predicates:
            yield predicate.cell, predicate
            if predicate.base:
                yield predicate.base, predicate


def _probe_group(claim: Claim, probe: Probe) -> Group:
    return Group(
        experiment_of(Where(probe=probe.name), claim.id),
        "workload",
        probe.image,
        probe.targets,
        runs=probe.runs,
        warmup=0,
        deadline_s=probe.deadline_s,
        command=("sh", "-c", probe.script),
        expect_s={target: max(probe.expect_s, EXPECT_S.get(target, 1.0)) for target in probe.targets},
    )


def measure_of(others: Callable[[Cell], Measure]) -> Callable[[Cell], Measure]:
    """How to measure a cell: ours where a claim's probe made it, else what the experiments say."""

    def find(cell: Cell) -> Measure:
        return run_probe if is_probe(cell.experiment) else others(cell)

    return find


def is_probe(experiment: str) -> bool:
    """True for `C12.name`."""
    return bool(re.fullmatch(r"C\d+\.[a-z0-9-]+", experiment))


def run_probe(target: Target, cell: Cell) -> Parts:
    """Run the script once, and take the numbers that it printed."""
    parts = target.run_once(cell)
    values = numbers(parts.output)
    if parts.status == "ok" and not values:
        return replace(parts, status="failed", error=f"the probe printed no number: {parts.output[-200:]!r}")
    return replace(parts, values={**parts.values, **values})


def numbers(output: str) -> Mapping[str, float]:
    """`name number` lines of an output; all others are for people."""
    return {name: float(number) for name, number in _LINE.findall(output)}


def script_of(cell: Cell) -> str:
    """The script of a probe's cell."""
    claim, _, name = cell.experiment.partition(".")
    return claim_of(claim).probe(name).script
