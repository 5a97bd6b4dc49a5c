"""results.csv: every sample as one row, every edge and value as one column, for R, pandas or a
spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from bench.core.sample import EDGES, Sample

_PLAIN = (
    "campaign", "plan_hash", "experiment", "cell", "target", "image", "mode", "accelerator", "way", "block",
    "order", "warmup", "status", "exit_status", "began_unix_s",
)  # fmt: skip
# A spreadsheet runs a cell that begins with one of these as a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_text(samples: Sequence[Sample]) -> str:
    """The table with a head; times in nanoseconds since t0, values under their own names with unit."""
    names = sorted({name for sample in samples for name in sample.values})
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*_PLAIN, "host", *(f"{edge}_ns" for edge in EDGES), *map(_safe, names), "error"])
    for sample in samples:
        plain = [_cell(getattr(sample, name)) for name in _PLAIN]
        edges = [sample.edges_ns.get(edge, "") for edge in EDGES]
        values = [sample.values.get(name, "") for name in names]
        writer.writerow([*plain, _cell(sample.host.get("id")), *edges, *values, _cell(sample.error)])
    return out.getvalue()


def _cell(value: object) -> object:
    if value is None:
        return ""
    return _safe(value) if isinstance(value, str) else value


def _safe(words: str) -> str:
    """Words from a results file must not become a spreadsheet's formula."""
    return f"'{words}" if words.startswith(_FORMULA) else words
