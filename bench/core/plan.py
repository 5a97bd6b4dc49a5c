"""The plan: what is measured, how often, and what counts as a difference; fixed before the first run.

A plan is a TOML file. Its hash stands in every sample, so that nobody can change the question afterwards.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.core.target import MARKER, Cell, Param
from host.errors import Usage

MODES = ("command", "boot", "memory", "disk", "workload")


@dataclass(frozen=True)
class Group:
    """Cells that are compared with each other: run in blocks, each block in random order.

    `runs` blocks are run; with `max_runs` above it, blocks are added until the interval of every target's
    median start is narrower than `precision` (half width over median) at two looks in a row, one every
    `look_every`.
    `batch` runs share one worker process. `expect_s` (target -> seconds) is for the estimate only.
    """

    experiment: str
    mode: str
    image: str
    targets: tuple[str, ...]
    runs: int = 10
    max_runs: int = 0
    precision: float = 0.02
    look_every: int = 5
    warmup: int = 1
    batch: int = 1
    deadline_s: float = 60.0
    command: tuple[str, ...] = ("echo", MARKER)
    params: tuple[tuple[str, Param], ...] = ()
    expect_s: Mapping[str, float] = field(default_factory=dict)

    def cells(self) -> tuple[Cell, ...]:
        """One cell a target, in the plan's order."""
        return tuple(
            Cell(self.experiment, self.mode, self.image, name, self.command, self.params, self.deadline_s)
            for name in self.targets
        )

    @property
    def size(self) -> int:
        """How many turns it can have at most."""
        return (self.warmup + max(self.runs, self.max_runs)) * len(self.targets)

    def estimate_s(self, usable: frozenset[str] | None = None) -> float:
        """Seconds that the group is expected to take with the targets that are usable here."""
        names = [name for name in self.targets if usable is None or name in usable]
        return (self.runs + self.warmup) * sum(
            self.expect_s.get(name, self.expect_s.get("default", 1.0)) for name in names
        )


@dataclass(frozen=True)
class Plan:
    """A campaign as declared: groups in order, thresholds by name, the seed of the order."""

    name: str
    question: str
    seed: int
    groups: tuple[Group, ...]
    thresholds: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def hash(self) -> str:
        """The first 16 hex digits of SHA-256 over the plan's canonical JSON, without the time estimates."""
        record = self.to_record()
        for group in record["groups"]:
            del group["expect_s"]
        text = json.dumps(record, sort_keys=True, separators=(",", ":"))
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def targets(self) -> tuple[str, ...]:
        """Every target that a group names, in the order of their first naming."""
        return tuple(dict.fromkeys(name for group in self.groups for name in group.targets))

    def to_record(self) -> dict[str, Any]:
        """The plan as JSON's types, for campaign.json and the hash."""
        record: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return record


def load(path: Path) -> Plan:
    """Read a plan file; raises Usage that names the key that is wrong."""
    try:
        return from_record(tomllib.loads(path.read_text()), str(path))
    except FileNotFoundError:
        hint = "vmm bench list shows the plans that come with vmm"
        raise Usage("cannot read the plan", str(path), "no such file", hint) from None
    except tomllib.TOMLDecodeError as error:
        raise Usage("cannot read the plan", str(path), str(error)) from None


def from_record(record: Mapping[str, Any], source: str = "plan") -> Plan:
    """The plan of a parsed TOML file or of campaign.json."""
    raw = dict(record)
    groups = [made for group in raw.pop("groups", []) for made in _groups(group, source)]
    defaults = {"question": "", "seed": 1, "thresholds": {}}
    unknown = set(raw) - {"name", *defaults}
    if unknown:
        raise _wrong(source, f"unknown key {sorted(unknown)[0]!r}")
    if "name" not in raw or not groups:
        raise _wrong(source, "a plan has a name and at least one [[groups]]")
    names = [cell.key for group in groups for cell in group.cells()]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise _wrong(source, f"the cell {twice[0]!r} is there twice")
    return Plan(groups=tuple(groups), **{**defaults, **raw})


def _groups(raw: Mapping[str, Any], source: str) -> list[Group]:
    """The groups of one [[groups]] table: `images` and lists among `params` are a sweep."""
    entry = dict(raw)
    images = entry.pop("images", None) or [entry.pop("image", "")]
    entry.pop("image", None)
    params = entry.pop("params", {})
    pairs = params.items() if isinstance(params, Mapping) else [(name, value) for name, value in params]
    choices = [
        [(name, one) for one in (value if isinstance(value, list) else [value])] for name, value in pairs
    ]
    unknown = set(entry) - {one.name for one in fields(Group)}
    if unknown:
        raise _wrong(source, f"unknown key {sorted(unknown)[0]!r} in [[groups]]")
    for name in ("targets", "command"):
        if name in entry:
            entry[name] = tuple(entry[name])
    try:
        return [
            _checked(Group(**entry, image=image, params=tuple(chosen)), source)
            for image in images
            for chosen in itertools.product(*choices)
        ]
    except TypeError as error:
        raise _wrong(source, str(error).replace("Group.__init__() ", "[[groups]] ")) from None


def _checked(group: Group, source: str) -> Group:
    where = f"{group.experiment}/{group.mode}/{group.image}"
    if group.mode not in MODES:
        raise _wrong(source, f"{where}: mode {group.mode!r} is none of {', '.join(MODES)}")
    if not group.image or not group.targets:
        raise _wrong(source, f"{where}: a group has an image and targets")
    if group.runs < 1 or group.warmup < 0 or group.batch < 1 or group.look_every < 1 or group.deadline_s <= 0:
        raise _wrong(
            source, f"{where}: runs, batch, look_every and deadline_s are at least 1, warmup at least 0"
        )
    return group


def _wrong(source: str, why: str) -> Usage:
    return Usage("cannot use the plan", source, why)


def quick(plan: Plan) -> Plan:
    """The plan with at most 3 runs (2 where one is expected to take more than 5 s), none of them adaptive.

    To see that all of it works here.
    """
    groups = tuple(
        replace(
            group,
            runs=min(group.runs, 2 if max(group.expect_s.values(), default=1.0) > 5 else 3),
            max_runs=0,
            warmup=min(group.warmup, 1),
        )
        for group in plan.groups
    )
    return replace(plan, name=f"{plan.name}-quick", groups=groups)


def only(plan: Plan, targets: frozenset[str]) -> Plan:
    """The plan for some of its targets."""
    groups = (
        replace(group, targets=tuple(name for name in group.targets if name in targets))
        for group in plan.groups
    )
    return replace(plan, groups=tuple(group for group in groups if group.targets))


def some(plan: Plan, text: str) -> Plan:
    """The plan with the groups whose name contains the text; raises Usage where there is none."""
    groups = tuple(group for group in plan.groups if text in group.cells()[0].group)
    if not groups:
        hint = f"vmm bench plan {plan.name} shows their names"
        raise Usage("no such group in the plan", repr(text), hint=hint)
    return replace(plan, groups=groups)
