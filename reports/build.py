"""From a results folder to the files of a report: the one place here that reads and writes files."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.core.sample import load, results_file
from reports import claimed, pdf
from reports.flat import csv_text
from reports.markdown import markdown
from reports.notebook import notebook
from reports.page import Source, page, picture, render

NAMES = {
    "html": "index.html",
    "md": "summary.md",
    "csv": "results.csv",
    "ipynb": "results.ipynb",
    "svg": "answer.svg",
    "pdf": "report.pdf",
}


def read(results: Sequence[Path]) -> Source:
    """The samples of results files or folders, and the campaign's plan and verdicts beside the first one.

    Raises NotFound and BadData.
    """
    paths = [results_file(one) for one in results]
    loaded = [load(path) for path in paths]
    names = _names(paths)
    return Source(
        loaded[0].samples,
        tuple(note for found in loaded for note in found.notes),
        _campaign(paths[0].parent),
        ", ".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths),
        tuple(claimed.load(paths[0].parent)),
        names[0],
        tuple((name, found.samples) for name, found in zip(names[1:], loaded[1:], strict=True)),
    )


def _names(paths: Sequence[Path]) -> list[str]:
    """A short name each: the folder's, or the whole path where two folders are called the same."""
    short = [path.resolve().parent.name for path in paths]
    return [name if short.count(name) == 1 else str(path) for name, path in zip(short, paths, strict=True)]


def _campaign(folder: Path) -> dict[str, Any] | None:
    """campaign.json, if it is there and whole: a reader does without it."""
    try:
        found = json.loads((folder / "campaign.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def build(results: Path | Sequence[Path], out: Path, formats: Sequence[str]) -> list[Path]:
    """Write the report of one results file, or of several compared; the paths written, in the formats' order.

    Raises NotFound and BadData; with pdf also OSError and SubprocessError where no browser prints.
    """
    source = read([results] if isinstance(results, Path) else results)
    out.mkdir(parents=True, exist_ok=True)
    made = page(source)
    writers: dict[str, Callable[[], str]] = {
        "html": lambda: render(made),
        "md": lambda: markdown(made),
        "csv": lambda: csv_text([*source.samples, *(one for _, samples in source.others for one in samples)]),
        "ipynb": notebook,
        "svg": lambda: picture(made),
    }
    return [
        pdf.write(render(made), out / NAMES[one])
        if one == "pdf"
        else _write(out / NAMES[one], writers[one]())
        for one in formats
    ]


def _write(path: Path, words: str) -> Path:
    """Whole or not at all, so that a browser never reloads half a page."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(words, encoding="utf-8")
    draft.replace(path)
    return path
