"""vmm report build: a results file in, one self-contained page and its companions out."""

from __future__ import annotations

import argparse
from pathlib import Path

FORMATS = ("html", "md", "csv")


def configure(parser: argparse.ArgumentParser) -> None:
    """The words of vmm report."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="build")
    build = verbs.add_parser("build", help="write the report of a results file or folder")
    build.add_argument(
        "results", metavar="RESULTS", type=Path, help="results.jsonl, or the folder that holds it"
    )
    build.add_argument(
        "--format", action="append", choices=FORMATS, dest="formats", help="default: all of them"
    )
    build.add_argument("--out", metavar="DIR", type=Path, help="where to write (default: beside the results)")


def main(args: argparse.Namespace) -> int:
    """Build and print the paths written, one a line."""
    from reports.build import build

    results: Path = args.results
    beside = results if results.is_dir() else results.parent
    for path in build(results, args.out or beside, args.formats or FORMATS):
        print(path)
    return 0
