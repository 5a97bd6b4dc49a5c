"""vmm report: a results file in, one self-contained page and its companions out; exercises for a class."""

from __future__ import annotations

import argparse
from pathlib import Path

FORMATS = ("html", "md", "csv", "ipynb")
MORE = ("svg",)


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
        help="default: html md csv ipynb; svg is the first picture alone",
    )
    build.add_argument(
        "--out", metavar="DIR", type=Path, help="where to write (default: beside the first results)"
    )
    exercises = verbs.add_parser("exercises", help="write exercises with flawed data sets, and their answers")
    exercises.add_argument("--out", metavar="DIR", type=Path, default=Path("out/exercises"))


def main(args: argparse.Namespace) -> int:
    """Write, and print the paths written, one a line."""
    if args.verb == "exercises":
        from reports.exercises import write

        paths = write(args.out)
    else:
        from reports.build import build

        first: Path = args.results[0]
        beside = first if first.is_dir() else first.parent
        paths = build(args.results, args.out or beside, args.formats or FORMATS)
    for path in paths:
        print(path)
    return 0
