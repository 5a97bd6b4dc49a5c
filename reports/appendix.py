"""What a stranger needs to judge and to repeat it: method, what was skipped, failures, host, versions,
checksums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from bench.core.sample import EDGES, Sample
from reports import units
from reports.figures.figure import Table
from reports.sections import Part, Section

METHOD = (
    "One block holds every cell once, in an order drawn anew for each block; targets are compared within "
    "blocks.",
    "One warm-up a cell comes first and is left out of every number; its lines are in the raw samples.",
    "All stamps are the host's CLOCK_MONOTONIC; guest clocks enter no number except t5, which is derived "
    "and says so.",
    "The end marker is written by the same file of the same image on every target.",
    "Failures and timeouts are samples: they are counted, listed below, and keep a distribution below 100 %.",
    "Medians carry bias-corrected bootstrap intervals (BCa, 2000 resamples, fixed seed); no value is "
    "dropped as an outlier.",
    "Times of machines under TCG are about QEMU's translator. They are marked, and never pooled with KVM's.",
)
MOST_ROWS = 200


def appendix_sections(
    samples: Sequence[Sample], campaign: Mapping[str, Any], file_sha256: str
) -> list[Section]:
    """Method, skips and failures, host."""
    return [
        section
        for section in (_method(campaign), _failures(samples), _host(samples, campaign, file_sha256))
        if section
    ]


def _method(campaign: Mapping[str, Any]) -> Section:
    edges = Table(("edge", "what has happened"), tuple((edge, words) for edge, words in EDGES.items()), True)
    parts = [Part("list", METHOD, "The rules"), Part("table", edges, "The edges of a start")]
    command = campaign.get("command_line") or campaign.get("command") or campaign.get("argv")
    if command:
        words = " ".join(map(str, command)) if isinstance(command, list | tuple) else str(command)
        parts.append(Part("code", words, "The command that took these samples"))
    groups = _plan_of(campaign).get("groups")
    if isinstance(groups, list) and all(isinstance(group, dict) for group in groups):
        parts.append(Part("table", _plan(groups), "The plan, fixed before the first run"))
    return Section("method", "Method", "How it was measured", (), tuple(parts))


def _plan_of(campaign: Mapping[str, Any]) -> Mapping[str, Any]:
    plan = campaign.get("plan")
    return plan if isinstance(plan, dict) else {}


def _plan(groups: Sequence[Mapping[str, Any]]) -> Table:
    """One row a group of cells; the whole of it is in campaign.json."""
    head = ("experiment", "mode", "image", "parameters", "targets", "runs", "warm-ups", "deadline")
    rows = []
    for group in groups:
        params = ", ".join(f"{name}={value}" for name, value in _pairs(group.get("params")))
        targets = ", ".join(map(str, group.get("targets") or ()))
        told = [str(group.get(name, "–")) for name in ("experiment", "mode", "image")]
        counts = [str(group.get(name, "–")) for name in ("runs", "warmup")]
        rows.append((*told, params or "–", targets, *counts, f"{group.get('deadline_s', '–')} s"))
    return Table(head, tuple(rows), True)


def _pairs(params: object) -> list[tuple[str, object]]:
    """Parameters as campaign.json holds them: a list of pairs."""
    found = params if isinstance(params, list) else []
    return [(str(one[0]), one[1]) for one in found if isinstance(one, list) and len(one) == 2]


def _failures(samples: Sequence[Sample]) -> Section | None:
    skipped = _told_once([sample for sample in samples if sample.status == "skipped"])
    failed = [sample for sample in samples if sample.status in ("failed", "timeout")]
    if not skipped and not failed:
        return None
    parts = []
    if skipped:
        rows = tuple((target, error or "–", hint or "–") for target, error, hint in skipped)
        parts.append(Part("table", Table(("target", "why", "what helps"), rows, True), "Skipped"))
    if failed:
        head = ("target", "image", "mode", "block", "status", "error")
        table = Table(head, tuple(_failure_row(sample) for sample in failed[:MOST_ROWS]), True)
        title = f"Failed runs: {len(failed)} of {len(samples)}"
        title += f", the first {MOST_ROWS} of them" if len(failed) > MOST_ROWS else ""
        parts.append(Part("table", table, title))
    return Section("not-measured", "Skipped and failed", "What was not measured, and why", (), tuple(parts))


def _told_once(skipped: Sequence[Sample]) -> list[tuple[str, str | None, str | None]]:
    return sorted({(one.target, one.error, one.hint) for one in skipped}, key=str)


def _failure_row(sample: Sample) -> tuple[str, ...]:
    error = (sample.error or "–").strip().replace("\n", " · ")[:400]
    return (sample.target, sample.image, sample.mode, str(sample.block), sample.status, error)


def _host(samples: Sequence[Sample], campaign: Mapping[str, Any], file_sha256: str) -> Section | None:
    parts = [Part("facts", _host_facts(host), str(host.get("id", ""))) for host in _hosts(samples)]
    facts = campaign.get("facts")
    if isinstance(facts, dict) and (more := _flat(facts)):
        parts.append(Part("facts", more, "The host in full, as the campaign found it"))
    versions: dict[str, str] = {}
    for sample in samples:
        versions.update({str(name): str(version) for name, version in sample.versions.items()})
    if versions:
        parts.append(Part("facts", sorted(versions.items()), "Versions"))
    if disturbed := _disturbed(samples, campaign):
        head = ("runs", "warning", "what it means")
        parts.append(Part("table", Table(head, disturbed, True), "What may have disturbed the runs"))
    parts.append(Part("facts", _provenance(samples, campaign, file_sha256), "The raw data"))
    return Section("host", "Host and data", "The host, the versions, the raw data", (), tuple(parts))


def _disturbed(samples: Sequence[Sample], campaign: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    """How many runs each warning is about; its meaning is in campaign.json."""
    words = campaign.get("warnings")
    meaning = words if isinstance(words, dict) else {}
    ran = [sample for sample in samples if sample.status != "skipped"]
    found = Counter(code for sample in ran for code in sample.warnings)
    return tuple((f"{n} of {len(ran)}", code, str(meaning.get(code, "–"))) for code, n in found.most_common())


def _hosts(samples: Sequence[Sample]) -> list[Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for sample in samples:
        found.setdefault(str(sample.host.get("id", "")), sample.host)
    return [host for host in found.values() if host]


def _host_facts(host: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = []
    for name, value in host.items():
        if name.endswith("_bytes") and isinstance(value, int | float):
            facts.append((name.removesuffix("_bytes").replace("_", " "), units.size(value)))
        elif name != "id" and value is not None:
            facts.append((name.replace("_", " "), str(value)))
    return facts


def _flat(facts: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    """Nested facts as one list; long lists (a processor's flags) stay in campaign.json."""
    found = []
    for name, value in facts.items():
        if isinstance(value, dict):
            found += _flat(value, f"{above}{name}: ")
        elif value is not None and name != "flags":
            found.append((f"{above}{name}".replace("_", " "), str(value)[:200]))
    return found


def _provenance(
    samples: Sequence[Sample], campaign: Mapping[str, Any], file_sha256: str
) -> list[tuple[str, str]]:
    statuses = Counter(sample.status for sample in samples)
    began = [sample.began_unix_s for sample in samples if sample.began_unix_s]
    facts = [
        (
            "samples",
            f"{len(samples)} ({', '.join(f'{count} {status}' for status, count in statuses.most_common())})",
        ),
        ("warm-ups among them", str(sum(sample.warmup for sample in samples))),
        ("campaigns", ", ".join(sorted({sample.campaign for sample in samples})) or "–"),
        ("plan hash", ", ".join(sorted({sample.plan_hash for sample in samples})) or "–"),
        ("SHA-256 of results.jsonl", file_sha256),
    ]
    if began:
        facts.insert(1, ("taken", f"{when(min(began))} to {when(max(began))}"))
    seed = _plan_of(campaign).get("seed")
    return [*facts, ("seed of the order", str(seed))] if seed is not None else facts


def when(unix_s: float) -> str:
    """A moment in UTC, to the minute."""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
