"""vmm doctor: what this host really can do, why not, and the command that mends it."""

from __future__ import annotations

import argparse
import sys

from cli import table
from instances import doctor


def configure(parser: argparse.ArgumentParser) -> None:
    """The flags of doctor."""
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument("--repair", action="store_true", help="remove what killed commands left half made")
    parser.add_argument("--probe", metavar="NAME", help="what a process inside this container can reach")
    parser.add_argument("--quick", action="store_true", help="leave the boot of a probe guest under KVM out")


def main(args: argparse.Namespace) -> int:
    """Print the findings; 1 when something that vmm cannot do without is missing."""
    if args.repair:
        return _repair(args.json)
    if args.probe:
        from instances import kinds, registry

        print(kinds.optional(registry.find(args.probe), "probe")())
        return 0
    findings = doctor.examine(quick=args.quick)
    if args.json:
        print(table.document(capabilities=[one._asdict() for one in findings], daemons=doctor.daemons()))
    else:
        _tell(findings)
    return 1 if any(one.needed and not one.works for one in findings) else 0


def _repair(as_json: bool) -> int:
    from instances import repair

    removed = repair.repair()
    if as_json:
        print(table.document(removed=removed))
    else:
        table.say("\n".join(f"removed {line}" for line in removed) or "nothing was half made")
    return 0


def _tell(findings: list[doctor.Finding]) -> None:
    width = max(len(one.name) for one in findings)
    bold = ("\033[32myes\033[0m", "\033[31mno \033[0m") if sys.stdout.isatty() else ("yes", "no ")
    for one in findings:
        print(f"{bold[0 if one.works else 1]}  {one.name:<{width}}  {one.reason}")
        if one.mend and not one.works:
            print(f"     {'':<{width}}  mend: {one.mend}")
    for line in doctor.daemons():
        print(f"     {'daemon':<{width}}  {line['program']} (pid {line['pid']}), started by vmm")
