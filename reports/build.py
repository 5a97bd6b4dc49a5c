"""From a results folder to the files of a report: the one place here that reads and writes files."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.core.sample import load, results_file
from reports import claimed
from reports.flat import csv_text
from reports.markdown import markdown
from reports.page import Source, page, render

NAMES = {"html": "index.html", "md": "summary.md", "csv": "results.csv"}


def read(results: Path) -> Source:
    """The samples of a results file or folder, and the campaign's plan where it lies beside; raises
    NotFound, BadData."""
    path = results_file(results)
    found = load(path)
    return Source(
        found.samples,
        found.notes,
        _campaign(path.parent),
        hashlib.sha256(path.read_bytes()).hexdigest(),
        tuple(claimed.load(path.parent)),
    )


def _campaign(folder: Path) -> dict[str, Any] | None:
    """campaign.json, if it is there and whole: a reader does without it."""
    try:
        found = json.loads((folder / "campaign.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def build(results: Path, out: Path, formats: Sequence[str]) -> list[Path]:
    """Write the report in the formats asked for; the paths written, in the same order."""
    source = read(results)
    out.mkdir(parents=True, exist_ok=True)
    made = page(source)
    writers = {
        "html": lambda: render(made),
        "md": lambda: markdown(made),
        "csv": lambda: csv_text(source.samples),
    }
    return [_write(out / NAMES[one], writers[one]()) for one in formats]


def _write(path: Path, words: str) -> Path:
    """Whole or not at all, so that a browser never reloads half a page."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(words, encoding="utf-8")
    draft.replace(path)
    return path
