"""The register: one TOML file a claim, read into frozen records; a word that is unknown is told, not
ignored."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from host.errors import BadData, NotFound

DATA = Path(__file__).parent / "data"
SEEDS = {
    "S0": "course notes that collect answers about docker and virtual machines",
    "S1": "a developer's introduction to docker",
    "S2": "a blog post after a much read answer on Stack Overflow (2016)",
    "S3": "answers of that question put together",
    "S4": "a beginner's tutorial",
}
VERDICTS = ("confirmed", "refuted", "qualified", "undecided", "not testable here", "documentary")
EFFECTS = ("median", "all", "ratio", "difference", "slope", "slope-ratio", "exponent")
CHAPTERS = (
    "start-up",
    "memory and density",
    "disk and images",
    "snapshots and transfer",
    "overhead",
    "isolation",
)
# From six samples on, least and greatest bound the median with 95 % confidence whatever the distribution.
FEWEST = {"median": 6, "ratio": 6, "difference": 6, "slope": 4, "slope-ratio": 4, "exponent": 4}
FEWEST_OTHER = 3
_BOUND = re.compile(r"(>=|<=|>|<|==|within) (-?[\d.e+-]+)(?: (-?[\d.e+-]+))?")


@dataclass(frozen=True)
class Where:
    """Which samples: any of the named fields equal, `probe` names a script of the same claim."""

    experiment: str = ""
    probe: str = ""
    mode: str = ""
    image: str = ""
    target: str = ""
    accelerator: str = ""


@dataclass(frozen=True)
class Bound:
    """The side that a whole interval must lie on. `within` is the equivalence test: inside both limits."""

    sign: str
    low: float
    high: float = 0.0

    def __str__(self) -> str:
        sign = {">=": "≥", "<=": "≤", "==": "="}.get(self.sign, self.sign)
        return f"{sign} {self.low:g}" + (f" to {self.high:g}" if self.sign == "within" else "")


@dataclass(frozen=True)
class Predicate:
    """One checkable sentence of a claim: an effect of chosen samples, and the bound that it must keep.

    `value` is a named value of the samples, two of them (`a/b`, `a-b`), or two edges (`t0..t8`, in seconds).
    `minimum` is the least number of samples (of pairs, where two sets are compared). An `optional` one is not
    missed where it cannot run.
    """

    name: str
    words: str
    cell: Where
    effect: str
    value: str
    bound: Bound
    base: Where | None = None
    over: str = "instances"
    minimum: int = 0
    unit: str = ""
    optional: bool = False


@dataclass(frozen=True)
class Probe:
    """A script that prints `name number` lines, run by targets; `host` runs it beside vmm itself."""

    name: str
    script: str
    targets: tuple[str, ...]
    image: str = "tiny"
    runs: int = 1
    deadline_s: float = 60.0
    expect_s: float = 3.0


@dataclass(frozen=True)
class Published:
    """A number of others to compare the shape with, never milliseconds across machines."""

    words: str
    source: str
    tag: str
    value: float | None = None


@dataclass(frozen=True)
class Claim:
    """One row of the register."""

    id: str
    title: str
    statement: str
    sources: tuple[str, ...]
    chapter: str
    expected: str
    mechanism: str
    change: str
    exercise: str
    predicates: tuple[Predicate, ...] = ()
    probes: tuple[Probe, ...] = ()
    published: tuple[Published, ...] = ()
    controls: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()
    contradicts: tuple[str, ...] = ()
    lacking: str = ""
    evidence: tuple[str, ...] = ()
    finding: str = ""

    @property
    def number(self) -> int:
        return int(self.id[1:])

    def probe(self, name: str) -> Probe:
        """The probe of that name."""
        return next(probe for probe in self.probes if probe.name == name)


def parse(text: str, source: str) -> Claim:
    """A claim from TOML; raises BadData that names the file and the key."""
    try:
        raw = tomllib.loads(text)
        raw["predicates"] = tuple(_predicate(one) for one in raw.get("predicates", ()))
        raw["probes"] = tuple(_probe(name, one) for name, one in raw.get("probes", {}).items())
        raw["published"] = tuple(Published(**one) for one in raw.get("published", ()))
        claim = Claim(**{key: _frozen(value) for key, value in raw.items()})
    except (tomllib.TOMLDecodeError, TypeError, KeyError, ValueError) as error:
        raise BadData("cannot read the claim", source, str(error)) from None
    _check(claim, source)
    return claim


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _predicate(raw: Mapping[str, Any]) -> Predicate:
    rest = {key: value for key, value in raw.items() if key not in ("cell", "base", "is")}
    base = Where(**raw["base"]) if "base" in raw else None
    rest.setdefault("minimum", FEWEST.get(rest["effect"], FEWEST_OTHER))
    return Predicate(cell=Where(**raw["cell"]), base=base, bound=bound(raw["is"]), **rest)


def bound(words: str) -> Bound:
    """A bound from `>= 60`, `== 1` or `within 0.95 1.05`; raises ValueError."""
    match = _BOUND.fullmatch(words)
    if not match or (match[1] == "within") != (match[3] is not None):
        raise ValueError(f"not a bound: {words!r}")
    return Bound(match[1], float(match[2]), float(match[3] or 0))


def _probe(name: str, raw: Mapping[str, Any]) -> Probe:
    return Probe(name, **{key: _frozen(value) for key, value in raw.items()})


def _check(claim: Claim, source: str) -> None:
    wrong = [
        f"expected {claim.expected!r}" if claim.expected not in VERDICTS else "",
        f"chapter {claim.chapter!r}" if claim.chapter not in CHAPTERS else "",
        "neither predicates nor evidence nor lacking" if not _has_ground(claim) else "",
        *(f"source {one!r}" for one in claim.sources if one not in SEEDS),
        *(f"effect {one.effect!r}" for one in claim.predicates if one.effect not in EFFECTS),
        *(f"{one.name}: {one.minimum} samples are too few" for one in claim.predicates if _too_few(one)),
        *(f"{one.name}: {one.effect} needs a base" for one in claim.predicates if _lacks_base(one)),
        *(
            f"no probe {where.probe!r}"
            for where in _wheres(claim)
            if where.probe and not _known(claim, where)
        ),
        *(f"published tag {one.tag!r}" for one in claim.published if one.tag not in ("raw", "doc")),
    ]
    told = [one for one in wrong if one]
    if told:
        raise BadData("cannot use the claim", source, "; ".join(told))


def _has_ground(claim: Claim) -> bool:
    return bool(claim.predicates or (claim.evidence and claim.finding) or claim.lacking)


def _lacks_base(one: Predicate) -> bool:
    return one.base is None and one.effect in ("ratio", "difference", "slope-ratio")


def _too_few(one: Predicate) -> bool:
    return one.minimum < FEWEST.get(one.effect, 1)


def _wheres(claim: Claim) -> Iterable[Where]:
    for one in claim.predicates:
        yield one.cell
        if one.base:
            yield one.base


def _known(claim: Claim, where: Where) -> bool:
    return any(probe.name == where.probe for probe in claim.probes)


@cache
def register() -> tuple[Claim, ...]:
    """All claims, C1 first."""
    found = [parse(path.read_text(encoding="utf-8"), path.name) for path in DATA.glob("C*.toml")]
    return tuple(sorted(found, key=lambda claim: claim.number))


def claim_of(name: str) -> Claim:
    """One claim by its number; raises NotFound."""
    for claim in register():
        if claim.id.lower() == name.lower():
            return claim
    raise NotFound("no claim", name, hint="vmm claims list shows C1 to C67")
