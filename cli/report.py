"""vmm report: a results file in, one self-contained page and its companions out; exercises for a class."""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Sequence
from pathlib import Path

from host.errors import Failure, HostUnfit

FORMATS = ("html", "md", "csv", "ipynb")
MORE = ("pdf", "svg")


def configure(parser: argparse.ArgumentParser) -> None:
    """The words of vmm report."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    build = verbs.add_parser(
        "build", help="write the report of a results file or folder, or of several compared"
    )
    build.add_argument(
        "results", metavar="RESULTS", type=Path, nargs="+", help="results.jsonl, or its folder"
    )
    build.add_argument(
        "--format",
        action="append",
        choices=(*FORMATS, *MORE),
        dest="formats",
        help="default: html md csv ipynb; pdf is the page printed by Chromium, svg the first picture alone",
    )
    build.add_argument(
        "-o", "--out", metavar="DIR", type=Path, help="where to write (default: beside the first results)"
    )
    exercises = verbs.add_parser("exercises", help="write exercises with flawed data sets, and their answers")
    exercises.add_argument("-o", "--out", metavar="DIR", type=Path, default=Path("out/exercises"))


def main(args: argparse.Namespace) -> int:
    """Write, and print the paths written, one a line."""
    if args.verb == "exercises":
        from reports.exercises import write

        paths = write(args.out)
    else:
        paths = _built(args.results, args.out, args.formats or FORMATS)
    for path in paths:
        print(path)
    return 0


def _built(results: Sequence[Path], out: Path | None, formats: Sequence[str]) -> list[Path]:
    from reports.build import build
    from reports.pdf import browser

    if "pdf" in formats:
        try:
            browser()
        except FileNotFoundError as error:
            hint = "apt-get install chromium, or print index.html from a browser"
            raise HostUnfit("cannot print the report", "pdf", str(error), hint) from None
    beside = results[0] if results[0].is_dir() else results[0].parent
    try:
        return build(results, out or beside, formats)
    except subprocess.SubprocessError as error:
        said = getattr(error, "stderr", None) or b""
        why = said.decode(errors="replace").strip()[-300:] or str(error)
        raise Failure("cannot print the report", "pdf", why, "print index.html from a browser") from None
