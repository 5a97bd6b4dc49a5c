"""Results for other programs and for people: CSV, JSON, Markdown (bench.core.table has the terminal's)."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.core.sample import EDGES, Sample
from bench.core.stats import Interval
from bench.core.summary import Row

FORMATS = ("csv", "json", "md", "text")


def to_csv(samples: Iterable[Sample]) -> str:
    """One row a sample: edges in nanoseconds since t0, every value in a column of its own."""
    samples = list(samples)
    plain = ["campaign", "plan_hash", "experiment", "cell", "target", "image", "mode", "block", "order",
             "warmup", "status", "error", "exit_status", "accelerator", "way", "began_unix_s"]  # fmt: skip
    values = sorted({name for one in samples for name in one.values})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    edges = [f"{edge}_ns" for edge in EDGES]
    writer.writerow([*plain, *edges, *values, "warnings", "host_id", "kernel"])
    for one in samples:
        writer.writerow(
            [
                *(getattr(one, name) for name in plain),
                *(one.edges_ns.get(edge, "") for edge in EDGES),
                *(one.values.get(name, "") for name in values),
                " ".join(one.warnings),
                one.host.get("id", ""),
                one.host.get("kernel", ""),
            ]
        )
    return text.getvalue()


def to_json(rows: Iterable[Row]) -> str:
    """The rows as one document; an interval that the data cannot bound has nulls."""
    told = [
        {
            **row._asdict(),
            "median": _interval(row.median),
            "ratio": _interval(row.ratio) if row.ratio else None,
        }
        for row in rows
    ]
    return json.dumps({"schema_version": 1, "rows": told}, indent=1)


def _interval(interval: Interval) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in interval._asdict().items()}


def to_markdown(rows: Sequence[Row], campaign: Mapping[str, Any], notes: Sequence[str] = ()) -> str:
    """summary.md: what was asked, every row, how it was measured, what was skipped and why.

    `notes` are further lines: what the reader of the file had to tell, what may have disturbed the runs.
    """
    plan, facts = campaign.get("plan", {}), campaign.get("facts", {})
    lines = [f"# {campaign.get('campaign', 'results')}", "", plan.get("question", ""), ""]
    for group, members in by_group(rows):
        lines += [f"## {group}", "", heading(members), ""]
        lines += ["| target | number | n | median | 95 % interval | ratio (95 % interval) | note |"]
        lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
        lines += [_markdown_row(row) for row in members] + [""]
    lines += ["## How it was measured", "", *_how(campaign, facts), ""]
    lines += [*(f"- {note}" for note in notes), *_leaks(campaign)]
    return "\n".join(lines) + "\n"


def _markdown_row(row: Row) -> str:
    ratio = f"{ratio_text(row)} {ratio_range(row)}".strip()
    cells = (label(row), row.what, str(row.n), value_text(row.median.estimate, row.what), range_text(row),
             ratio, note_text(row))  # fmt: skip
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _below(facts: Mapping[str, Any]) -> str:
    """What the host itself runs on: its hypervisor is not the accelerator of our machines."""
    name = facts.get("virtualization", "?")
    return "bare metal" if name == "none" else f"itself a guest ({name})"


def _how(campaign: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    overhead = campaign.get("overhead", {})
    found = [
        f"- plan {campaign.get('plan_hash', '?')}, outcome: {campaign.get('outcome', '?')}",
        "- medians with 95 % BCa bootstrap intervals; ratios are medians of per-block ratios",
        f"- host: {facts.get('cpu_model', '?')}, {facts.get('cores', '?')} cores, kernel "
        f"{facts.get('kernel', '?')}, cgroup {facts.get('cgroup', '?')}, {_below(facts)}",
    ]
    if overhead:
        found.append(
            f"- the harness itself: a stamp {overhead['stamp_ns']:.0f} ns, waking on the marker "
            f"{overhead['wake_ns'] / 1000:.0f} µs, a worker {overhead['worker_s'] * 1000:.1f} ms (not timed)"
        )
    found += [f"- stopped: {group}: {why}" for group, why in campaign.get("stops", {}).items()]
    return found


def _leaks(campaign: Mapping[str, Any]) -> list[str]:
    return [
        f"- left behind by {one['cell']}, run {one['block']}: {one['kind']} {one['what']}"
        for one in campaign.get("leaks", [])
        if one.get("sure", True)
    ]


def by_group(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Rows of one group together, groups in order."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    return list(groups.items())


def heading(rows: Sequence[Row]) -> str:
    """What the numbers of a group are, ends of the interval named."""
    mode = rows[0].mode
    if mode == "command":
        return "start: request (t0) to the first byte of the command's answer (t8)"
    if mode == "boot":
        return "boot: request (t0) to the first byte of sshd's banner (t8)"
    if mode == "memory" and rows[0].what == "slope_bytes":
        return "memory that one more instance takes from the host (slope of MemAvailable)"
    return {"memory": "memory of an idle instance", "disk": "disk of one more instance"}.get(mode, "values")


def label(row: Row) -> str:
    """The target, with its accelerator where one took part, and its way where it has several."""
    more = ", ".join(word for word in (row.accelerator, row.way) if word)
    return f"{row.target} ({more})" if more else row.target


def value_text(value: float, what: str) -> str:
    """A number with a fitting unit: seconds and bytes are scaled, the rest is told as it is."""
    if math.isnan(value):
        return "-"
    if what.endswith("_s"):
        return _seconds(value)
    if what.endswith("_ns"):
        return _seconds(value / 1e9)
    if what.endswith("_bytes_per_second"):
        return value_text(value, "_bytes") + "/s"
    if what.endswith("_per_second"):
        return f"{_scaled(value)}{'bit' if what.endswith('_bits_per_second') else ''}/s"
    if what.endswith("_bytes"):
        from host.sizes import format_bytes

        return format_bytes(value)
    return f"{value:.4g}"


def _scaled(value: float) -> str:
    """Three digits and a decimal prefix."""
    for prefix, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {prefix}"
    return f"{value:.3g} "


def _seconds(value: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def range_text(row: Row) -> str:
    """The interval of the median, empty where there is none."""
    if math.isnan(row.median.low):
        return ""
    return f"{value_text(row.median.low, row.what)} .. {value_text(row.median.high, row.what)}"


def ratio_text(row: Row) -> str:
    """The ratio to the base."""
    return "" if row.ratio is None or math.isnan(row.ratio.estimate) else f"{row.ratio.estimate:.3g}"


def ratio_range(row: Row) -> str:
    """The ratio's interval in brackets."""
    if row.ratio is None or math.isnan(row.ratio.low):
        return ""
    low, high = (f"{x:.2g}" if x < 100 else f"{x:.0f}" for x in (row.ratio.low, row.ratio.high))
    return f"({low}..{high})"


def note_text(row: Row) -> str:
    """Why a target has no number, or how many of its runs failed."""
    if not row.n:
        return row.why.splitlines()[0] if row.why else ""
    return f"{row.bad} failed: {row.why.splitlines()[0] if row.why else ''}" if row.bad else ""
