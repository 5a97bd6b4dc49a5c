"""vmm claims: what textbooks say about machines and containers, run and judged on this host."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from host.errors import Usage

if TYPE_CHECKING:
    from bench.claims.register import Claim
    from bench.claims.verdicts import Finding, Verdict
    from bench.core.plan import Plan
    from bench.core.sample import Sample

OUT = Path("out/claims")
MARKS = {
    "confirmed": "+",
    "refuted": "x",
    "qualified": "~",
    "undecided": "?",
    "not testable here": "-",
    "documentary": "d",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """The words of vmm claims."""
    words = parser.add_subparsers(dest="word", required=True, metavar="WORD")
    one = words.add_parser("list", help="all 67 claims, with their verdicts where results are there")
    one.add_argument("-o", "--out", type=Path, default=OUT, help="the results to judge by (out/claims)")
    one = words.add_parser("run", help="measure what the claims need, then judge them")
    one.add_argument("claims", nargs="*", metavar="C1", help="which ones (or --all)")
    one.add_argument("--all", action="store_true", help="all of them")
    one.add_argument("--quick", action="store_true", help="no more runs than a verdict needs")
    one.add_argument("-o", "--out", type=Path, default=OUT, help="folder of the results (out/claims)")
    one.add_argument("--resume", action="store_true", help="go on with what is in --out")
    one.add_argument("--dry-run", action="store_true", help="print the plan and its estimate only")
    one = words.add_parser("judge", help="judge results that are already there (any vmm bench campaign)")
    one.add_argument("results", type=Path, nargs="+", metavar="RESULTS")
    one = words.add_parser("explain", help="one claim: wording, predicates, experiment, verdict, reason")
    one.add_argument("claim", metavar="C1")
    one.add_argument("-o", "--out", type=Path, default=OUT, help="the results to judge by (out/claims)")


def main(args: argparse.Namespace) -> int:
    """Dispatch one word."""
    return {"list": _list, "run": _run, "judge": _judge, "explain": _explain}[args.word](args)


def _list(args: argparse.Namespace) -> int:
    from bench.claims.book import judged
    from bench.claims.register import register

    samples = _samples(args.out)
    if samples:
        return _tell(judged(register(), samples))
    for claim in register():
        print(f"{claim.id:<4} {claim.title}")
    print("\nno results yet: vmm claims run --all --quick", file=sys.stderr)
    return 0


def _samples(out: Path) -> Sequence[Sample]:
    from bench.core import sample
    from host.errors import NotFound

    try:
        return sample.load(out).samples
    except NotFound:
        return ()


def _chosen(args: argparse.Namespace) -> list[Claim]:
    from bench.claims.register import claim_of, register

    if args.all or (args.quick and not args.claims):
        return list(register())
    if not args.claims:
        raise Usage("which claims?", hint="name some, as in `vmm claims run C5 C12`, or say --all")
    return [claim_of(name) for name in dict.fromkeys(args.claims)]


def _run(args: argparse.Namespace) -> int:
    from bench.claims.book import FILE_NAME, judged, write
    from bench.claims.probing import plan_of

    claims = _chosen(args)
    plan = plan_of(claims, args.quick)
    if args.dry_run or not plan.groups:
        return _tell_plan(plan) if plan.groups else _tell(judged(claims, ()))
    samples = _measured(plan, args.out, args.resume)
    if samples is None:
        return 130
    verdicts = judged(claims, samples)
    write(args.out, verdicts)
    _tell(verdicts)
    print(f"\n{args.out / FILE_NAME}; the report with them: vmm report build {args.out}", file=sys.stderr)
    return 0


def _tell_plan(plan: Plan) -> int:
    for group in plan.groups:
        print(f"  {group.cells()[0].group}: {group.runs} x {' '.join(group.targets)}")
    total_s = sum(group.estimate_s() for group in plan.groups)
    print(f"{len(plan.groups)} groups, about {total_s / 60:.0f} min; {plan.hash}")
    return 0


def _measured(plan: Plan, out: Path, resume: bool) -> Sequence[Sample] | None:
    """Run the plan; None where Ctrl-C ended it, with every sample kept."""
    from bench import experiments, targets
    from bench.claims.front import Host
    from bench.claims.probing import measure_of
    from bench.core import store
    from bench.core.campaign import Campaign
    from host import paths

    recorded = list(_samples(out)) if resume else []
    if not resume:
        store.set_aside(out)
    with store.Store(out) as kept:
        campaign = Campaign(
            name=str(store.described(out).get("campaign") or _name(plan)),
            plan=plan,
            store=kept,
            targets={**targets.load(plan.targets), Host.name: Host()},
            measure_of=measure_of(experiments.measure_of),
            watched=(paths.instances_dir(), paths.run_dir()),
            command_line=sys.argv,
        )
        try:
            return campaign.run(recorded)
        except KeyboardInterrupt:
            print(f"interrupted: samples are in {out}; --resume goes on", file=sys.stderr)
            return None


def _name(plan: Plan) -> str:
    import secrets
    import time

    return f"{plan.name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"


def _judge(args: argparse.Namespace) -> int:
    from bench.claims.book import judged, write
    from bench.claims.register import register
    from bench.core import sample

    loaded = sample.load_all(args.results)
    for note in loaded.notes:
        print(note, file=sys.stderr)
    verdicts = judged(register(), loaded.samples)
    if len(args.results) == 1 and args.results[0].is_dir():
        write(args.results[0], verdicts)
    return _tell(verdicts)


def _tell(verdicts: Sequence[Verdict]) -> int:
    """One line a claim; a verdict that was not expected is marked, since that is worth reading about."""
    from bench.claims.book import counted, decided

    width = max(len(one.claim.title) for one in verdicts)
    for one in verdicts:
        word = one.word if one.word == one.claim.expected else f"{one.word} (expected: {one.claim.expected})"
        print(f"{MARKS[one.word]} {one.claim.id:<4} {one.claim.title:<{width}}  {word}")
    told = ", ".join(f"{count} {word}" for word, count in counted(verdicts).items())
    print(f"\n{decided(verdicts)} of {len(verdicts)} decided: {told}")
    return 0


def _explain(args: argparse.Namespace) -> int:
    from bench.claims.register import SEEDS, claim_of
    from bench.claims.verdicts import judge

    claim = claim_of(args.claim)
    verdict = judge(claim, _samples(args.out))
    print(f"{claim.id}  {claim.title}\n")
    _paragraph(claim.statement)
    print(f"\nsaid by: {'; '.join(SEEDS[one] for one in claim.sources)}")
    if claim.contradicts:
        print(f"contradicts: {', '.join(claim.contradicts)}")
    print(f"\nverdict: {verdict.word} (expected: {claim.expected})")
    _paragraph(verdict.reason)
    for finding in verdict.findings:
        _tell_finding(finding)
    _tell_rest(claim)
    return 0


def _tell_finding(finding: Finding) -> None:
    predicate, found = finding.predicate, finding.effect
    print(f"\n  {predicate.words}")
    print(f"    {predicate.effect} of {predicate.value} {predicate.bound} {predicate.unit}".rstrip())
    if found.interval is None:
        print(f"    open: {found.lacking}")
        return
    under = f", under {', '.join(found.accelerators)}" if found.accelerators else ""
    low, high = found.interval.low, found.interval.high
    middle = found.interval.estimate
    print(f"    {finding.side}: {middle:.4g} ({low:.4g} to {high:.4g}), n = {found.n}{under}")


def _tell_rest(claim: Claim) -> None:
    for head, texts in (
        ("why it comes out so", (claim.mechanism,)),
        ("caveats", claim.caveats),
        ("controls", claim.controls),
        ("evidence", claim.evidence),
        ("published", tuple(f"{one.words} ({one.source})" for one in claim.published)),
        ("what would change this verdict", (claim.change,)),
        ("exercise", (claim.exercise,)),
    ):
        if texts:
            print(f"\n{head}:")
            for text in texts:
                _paragraph(text)
    for probe in claim.probes:
        print(f"\nexperiment {probe.name}, on {', '.join(probe.targets)} ({probe.image}, {probe.runs} runs):")
        print(textwrap.indent(probe.script.strip(), "    "))
    print(f"\nrepeat it: vmm claims run {claim.id}")


def _paragraph(text: str) -> None:
    print(textwrap.fill(text, 92, initial_indent="  ", subsequent_indent="  "))
