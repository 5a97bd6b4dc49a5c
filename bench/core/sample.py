"""One measured run as a frozen record, and the reader of results.jsonl.

A line is never rewritten. It carries a checksum of its own content, so that a line edited by hand is told;
the last line of a file that lost power may be cut, is dropped and told.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from host.edges import NAMES
from host.errors import BadData, NotFound

SCHEMA_VERSION = 2
FILE_NAME = "results.jsonl"
EDGES = NAMES  # the edges of a start, in order, with what has happened there
STATUSES = ("ok", "failed", "timeout", "skipped")
Line = dict[str, Any]


@dataclass(frozen=True)
class Sample:
    """One run of one target in one cell; a failure, a timeout and a target that is missing are samples too.

    `edges_ns` are nanoseconds since t0 on the host's CLOCK_MONOTONIC, `values` are numbers by names that end
    in their unit, `warnings` are codes of `bench.core.noise`, `way` is which of a target's ways it went.
    """

    campaign: str
    plan_hash: str
    experiment: str
    cell: str
    target: str
    image: str
    mode: str
    block: int
    order: int
    warmup: bool
    status: str
    error: str | None = None
    hint: str | None = None
    exit_status: int | None = None
    accelerator: str | None = None
    way: str | None = None
    edges_ns: Mapping[str, int] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)
    began_unix_s: float = 0.0
    host: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def to_line(self) -> Line:
        """The JSON object of this sample, its checksum in it."""
        line: Line = {"schema_version": SCHEMA_VERSION, "record": "sample"}
        for name in _FIELDS:
            value = getattr(self, name)
            line[name] = dict(value) if isinstance(value, Mapping) else value
        line["warnings"] = list(self.warnings)
        line["checksum"] = checksum(line)
        return line

    def to_json(self) -> str:
        """The line of results.jsonl, without its newline; raises ValueError for a value that is no number."""
        return json.dumps(self.to_line(), separators=(",", ":"), allow_nan=False)


_FIELDS = tuple(one.name for one in fields(Sample))


@dataclass(frozen=True)
class Results:
    """The samples of a file in the order they were taken, and what the reader has to tell about the file."""

    samples: tuple[Sample, ...]
    notes: tuple[str, ...] = ()


def checksum(line: Mapping[str, Any]) -> str:
    """Sixteen hex digits over the canonical JSON of a line without its checksum."""
    content = {key: value for key, value in line.items() if key != "checksum"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def from_line(line: Line) -> Sample:
    """The sample of one JSON object of any schema up to ours; raises BadData."""
    line = migrated(line)
    try:
        picked = {name: line[name] for name in _FIELDS if name in line}
        sample = Sample(**{**picked, "warnings": tuple(line.get("warnings", ()))})
    except TypeError as error:
        raise BadData("cannot read a sample", why=str(error).replace("Sample.__init__() ", "")) from None
    if sample.status not in STATUSES:
        raise BadData("cannot read a sample", why=f"unknown status {sample.status!r}")
    return sample


def _from_1(line: Line) -> Line:
    """Schema 1 had neither warnings nor a checksum."""
    return {**line, "schema_version": 2, "warnings": []}


_MIGRATIONS: dict[int, Callable[[Line], Line]] = {1: _from_1}


def migrated(line: Line) -> Line:
    """The line in our schema; raises BadData for one from a newer vmm."""
    version = line.get("schema_version")
    while version != SCHEMA_VERSION:
        if version not in _MIGRATIONS:
            hint = "read it with the vmm that wrote it, or a newer one"
            raise BadData(
                "cannot read a sample", why=f"schema_version {version!r} is unknown here", hint=hint
            )
        line = _MIGRATIONS[version](line)
        version = line["schema_version"]
    return line


def results_file(path: Path) -> Path:
    """The results file of a campaign's folder, or the file itself; raises NotFound."""
    found = path / FILE_NAME if path.is_dir() else path
    if not found.exists():
        raise NotFound("no results", str(found), hint="vmm bench run writes them")
    return found


def load(path: Path) -> Results:
    """Read a results file, or the one in a folder.

    A cut last line is dropped, an edited line and an older schema are told in `notes`; a line in the middle
    that is no JSON raises BadData, since nothing of ours writes one.
    """
    path = results_file(path)
    samples: list[Sample] = []
    notes = _Notes(path)
    lines = path.read_bytes().split(b"\n")
    for number, raw in enumerate(lines, 1):
        if not raw.strip():
            continue
        line = _parsed(raw, path, number, is_last=number == len(lines))
        if line is None:
            notes.cut = True
            continue
        notes.look_at(line, number)
        if line.get("record", "sample") == "sample":
            samples.append(notes.finite(from_line(line), number))
    return Results(tuple(samples), notes.told())


def load_all(paths: Iterable[Path]) -> Results:
    """Several results files as one, in the order given; a sample that is in two of them counts once."""
    samples: dict[str, Sample] = {}
    notes: list[str] = []
    for path in paths:
        found = load(path)
        notes += found.notes
        for sample in found.samples:
            samples.setdefault(sample.to_json(), sample)
    return Results(tuple(samples.values()), tuple(notes))


def times_s(samples: Iterable[Sample], first: str = "t0", last: str = "t8") -> list[float]:
    """Seconds between two edges of good, timed runs; t9 stands in where a command says nothing (no t8)."""
    found = []
    for one in samples:
        if one.status != "ok" or one.warmup:
            continue
        end = one.edges_ns.get(last, one.edges_ns.get("t9") if last == "t8" else None)
        if end is not None and first in one.edges_ns:
            found.append((end - one.edges_ns[first]) / 1e9)
    return found


def _parsed(raw: bytes, path: Path, number: int, is_last: bool) -> Line | None:
    try:
        line = json.loads(raw)
    except ValueError as error:
        if is_last:  # no newline after it: the power went, or the disk was full, in the middle of a write
            return None
        raise BadData("cannot read the results", f"{path}:{number}", str(error)) from None
    if not isinstance(line, dict):
        raise BadData("cannot read the results", f"{path}:{number}", "not a JSON object")
    return line


class _Notes:
    """What the reader of one file has to tell."""

    def __init__(self, path: Path) -> None:
        self.path, self.cut = path, False
        self.edited: list[int] = []
        self.older: set[int] = set()
        self.infinite: list[str] = []

    def look_at(self, line: Line, number: int) -> None:
        if "checksum" in line and line["checksum"] != checksum(line):
            self.edited.append(number)
        if line.get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
            self.older.add(line["schema_version"])

    def finite(self, sample: Sample, number: int) -> Sample:
        """The sample without values that are no finite number."""
        bad = [name for name, value in sample.values.items() if not _is_finite(value)]
        if not bad:
            return sample
        self.infinite.append(f"line {number}: {', '.join(bad)}")
        kept = {name: value for name, value in sample.values.items() if name not in bad}
        return Sample(**{**{name: getattr(sample, name) for name in _FIELDS}, "values": kept})

    def told(self) -> tuple[str, ...]:
        told = []
        if self.cut:
            told.append(f"{self.path}: the last line is cut (a power loss or a full disk); it was left out")
        if self.edited:
            numbers = ", ".join(map(str, self.edited[:10]))
            told.append(f"{self.path}: edited after it was written (checksum differs): line {numbers}")
        if self.older:
            told.append(f"{self.path}: written with schema {sorted(self.older)}, read as {SCHEMA_VERSION}")
        if self.infinite:
            told.append(f"{self.path}: values that are no finite number left out: {'; '.join(self.infinite)}")
        return tuple(told)


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
