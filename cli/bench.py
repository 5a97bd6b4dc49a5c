"""vmm bench: plan, run, resume, compare and export measurements."""

from __future__ import annotations

import argparse
import math
import secrets
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from host.errors import Usage

if TYPE_CHECKING:
    from bench.core.campaign import Campaign
    from bench.core.condition import Condition
    from bench.core.plan import Plan
    from bench.core.sample import Sample
    from bench.core.summary import Row

    Words = argparse._SubParsersAction[argparse.ArgumentParser]


class Conditions(NamedTuple):
    """What --fail-if asks, and the rows that its `base` comes from."""

    parsed: list[Condition]
    baseline: list[Row]


def configure(parser: argparse.ArgumentParser) -> None:
    """The words of `vmm bench`."""
    words = parser.add_subparsers(dest="word", required=True, metavar="WORD")
    one = words.add_parser("list", help="the plans and targets that come with vmm")
    one.add_argument(
        "--targets", action="store_true", help="what can be started here, and why the rest cannot"
    )
    one = words.add_parser("plan", help="cells, order and estimated time of a plan")
    _plan_words(one)
    one = words.add_parser("run", help="measure; every sample is on disk before the next begins")
    _plan_words(one)
    one.add_argument("-o", "--out", type=Path, help="folder of the results (out/NAME)")
    one.add_argument("--dry-run", action="store_true", help="show what would be run")
    one.add_argument("--fail-if", action="append", default=[], metavar="EXPR",
                     help="exit 1 where it holds: 'ct.start.median > 1.1 * base'")  # fmt: skip
    one.add_argument("--baseline", type=Path, metavar="RESULTS", help="where `base` in --fail-if comes from")
    one.add_argument("--cluster", metavar="tcp://HOST:PORT", help="over all hosts of a Dask scheduler")
    one = words.add_parser("worker", help="let this host measure for a cluster")
    one.add_argument(
        "address", metavar="tcp://HOST:PORT", help="the Dask scheduler (`dask scheduler` starts one)"
    )
    one.add_argument("--name", help="what results call this host")
    one.add_argument("--give-up", type=float, metavar="S", help="end when no scheduler answered for so long")
    one = words.add_parser("resume", help="go on with an interrupted campaign")
    one.add_argument("out", type=Path, nargs="?", default=Path("out/demo"), help="folder of the results")
    one.add_argument("--cluster", metavar="tcp://HOST:PORT", help="go on over a cluster")
    _reading_words(words)


def _reading_words(words: Words) -> None:
    """What is done with results that are there."""
    one = words.add_parser("compare", help="two results, or the odd blocks of one against its even blocks")
    one.add_argument("results", type=Path, nargs="+", help="one or two result folders or files")
    one.add_argument(
        "--targets", default="", metavar="A,B", help="two targets of one result, paired by block"
    )
    one.add_argument(
        "--published", action="store_true", help="beside published tables: ratios, order, slopes"
    )
    one.add_argument("--margin", type=float, default=0.05, help="what counts as equivalent (0.05: 5 %%)")
    one = words.add_parser("history", help="the medians of several results, oldest first")
    one.add_argument("results", type=Path, nargs="+")
    one = words.add_parser("export", help="results as csv, json, md or text")
    one.add_argument("results", type=Path, nargs="+")
    one.add_argument("--format", choices=("csv", "json", "md", "text"), default="text")
    one.add_argument("--base", default="ct", help="the target that ratios stand on")


def _plan_words(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "plan",
        nargs="?",
        default="demo",
        help="a plan's name or file; `experiments` is all of E1 to E20 (demo)",
    )
    parser.add_argument("--targets", default="", metavar="A,B", help="only these targets")
    parser.add_argument("--groups", default="", metavar="TEXT", help="only groups whose name has this text")
    parser.add_argument(
        "--quick", action="store_true", help="at most 3 runs a cell: does all of it work here?"
    )


def main(args: argparse.Namespace) -> int:
    """Dispatch one word."""
    return {
        "list": _list,
        "plan": _plan,
        "run": _run,
        "resume": _resume,
        "worker": _worker,
        "compare": _compare,
        "history": _history,
        "export": _export,
    }[args.word](args)


def _list(args: argparse.Namespace) -> int:
    if args.targets:
        return _list_targets()
    from bench import experiments
    from bench.core import plan

    plans = experiments.plans()
    width = max(map(len, plans))
    for name, path in plans.items():
        print(f"  {name:<{width}}  {plan.load(path).question}")
    return 0


def _list_targets() -> int:
    from bench import targets

    shown = [name for name in targets.TARGETS if name not in targets.HIDDEN]
    width = max(map(len, shown))
    for name, target in targets.load(shown).items():
        missing = target.why_unavailable()
        if missing is None:
            versions = ", ".join(version for version in target.versions().values())
            print(f"  {name:<{width}}  yes  {versions}".rstrip())
        else:
            print(f"  {name:<{width}}  no   {missing.why}" + (f"; {missing.hint}" if missing.hint else ""))
    return 0


def _planned(args: argparse.Namespace) -> Plan:
    from bench import experiments
    from bench.core import plan

    made = (
        experiments.everything()
        if args.plan == "experiments"
        else plan.load(experiments.plan_path(args.plan))
    )
    if args.targets:
        chosen = frozenset(args.targets.split(","))
        unknown = chosen - set(made.targets)
        if unknown:
            hint = f"it has {', '.join(made.targets)}; vmm race IMAGE --targets A,B --runs N takes any"
            raise Usage("no such target in the plan", ", ".join(sorted(unknown)), hint=hint)
        made = plan.only(made, chosen)
    if args.groups:
        made = plan.some(made, args.groups)
    return plan.quick(made) if args.quick else made


def _plan(args: argparse.Namespace) -> int:
    from bench import targets

    made = _planned(args)
    usable = {name for name, target in targets.load(made.targets).items() if target.why_unavailable() is None}
    print(f"{made.name}  {made.hash}\n{made.question}\n")
    for group in made.groups:
        told = [name if name in usable else f"({name})" for name in group.targets]
        runs = f"{group.runs}..{group.max_runs}" if group.max_runs > group.runs else f"{group.runs}"
        print(f"  {group.cells()[0].group}: {group.warmup}+{runs} blocks of {' '.join(told)}")
    total_s = sum(group.estimate_s(frozenset(usable)) for group in made.groups)
    print(f"\nestimated {_length(total_s)}; in (brackets): missing here, see vmm bench list --targets")
    _print_order(made, usable)
    return 0


def _print_order(made: Plan, usable: set[str]) -> None:
    """The first block of each group in the order that its runs will have."""
    from bench.core import schedule

    print("order of the first blocks:")
    for group in made.groups:
        first = next(block for block in schedule.blocks(group, made.seed) if not block[0].warmup)
        print(f"  {group.cells()[0].group}: " + " ".join(turn.cell.target for turn in first))


def _run(args: argparse.Namespace) -> int:
    from bench.core import store

    made = _planned(args)
    if args.dry_run:
        return _plan(args)
    conditions = _conditions(args.fail_if, args.baseline, made.targets)
    out = args.out or Path("out", made.name)
    aside = store.set_aside(out)
    if aside is not None:
        _say(f"the results that were in {out} are in {aside} now")
    name = f"{made.name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"
    if args.cluster:
        return _lead(args.cluster, made, out, name, [], conditions)
    return _measure(made, out, name, [], conditions)


def _resume(args: argparse.Namespace) -> int:
    from bench.core import plan, sample, store

    described = store.described(args.out)
    if not described:
        raise Usage("nothing to resume", str(args.out), "no campaign.json there", "vmm bench run begins one")
    made = plan.from_record(described["plan"])
    if made.hash != described["plan_hash"]:
        raise Usage("cannot resume", str(args.out), "the plan in campaign.json is not the one that was begun")
    recorded = sample.load(args.out)
    for note in recorded.notes:
        _say(note)
    samples, nothing = list(recorded.samples), Conditions([], [])
    if args.cluster:
        return _lead(args.cluster, made, args.out, described["campaign"], samples, nothing)
    return _measure(made, args.out, described["campaign"], samples, nothing)


def _measure(made: Plan, out: Path, name: str, recorded: list[Sample], conditions: Conditions) -> int:
    """Run the campaign, then write its tables; Ctrl-C ends it in order and keeps every sample."""
    from bench import experiments, targets
    from bench.core.campaign import Campaign
    from bench.core.store import Store
    from host import paths

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Store(out) as store:
        if store.dropped_bytes:
            _say(f"{out}: the last line was cut and is dropped ({store.dropped_bytes} bytes)")
        campaign = Campaign(
            name=name,
            plan=made,
            store=store,
            targets=targets.load(made.targets),
            measure_of=experiments.measure_of,
            watched=(paths.instances_dir(), paths.run_dir()),
            command_line=sys.argv,
        )
        _say_estimate(made, campaign)
        try:
            campaign.run(recorded)
        except KeyboardInterrupt:
            _say(f"interrupted: {len(campaign.samples)} samples are in {out}; vmm bench resume {out} goes on")
            return 130
    return _tell(out, campaign.samples, campaign.litter(), conditions)


def _lead(
    address: str, made: Plan, out: Path, name: str, recorded: list[Sample], conditions: Conditions
) -> int:
    """The same plan over the hosts of a cluster."""
    _need_distributed()
    from bench.cluster.lead import Lead
    from bench.core.store import Store

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Store(out) as store:
        lead = Lead(address, name, made, store)
        try:
            samples = lead.run(recorded)
        except KeyboardInterrupt:
            _say(f"interrupted: {len(lead.samples)} samples are in {out}; vmm bench resume {out} goes on")
            return 130
    return _tell(out, samples, [], conditions)


def _worker(args: argparse.Namespace) -> int:
    _need_distributed()
    from bench.cluster import worker

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return worker.serve(args.address, args.name, args.give_up)
    except KeyboardInterrupt:
        return 0


def _need_distributed() -> None:
    from importlib.util import find_spec

    from host.errors import HostUnfit

    if find_spec("distributed") is None:
        raise HostUnfit("cannot use a cluster", why="Dask distributed is not installed",
                        hint="pip install 'vmm-lab[cluster]'")  # fmt: skip


def _say_estimate(made: Plan, campaign: Campaign) -> None:
    usable = frozenset(name for name, target in campaign.targets.items() if target.why_unavailable() is None)
    total_s = sum(group.estimate_s(usable) for group in made.groups)
    told = ", ".join(sorted(usable)) or "nothing"
    making_s = _making_s(made)
    images = f", and {_length(making_s)} for images that are not made yet" if making_s else ""
    _say(f"{made.name} ({made.hash}): about {_length(total_s)}{images}, with {told}")


def _length(seconds: float) -> str:
    return f"{max(1, round(seconds))} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _making_s(made: Plan) -> float:
    """Seconds that making the plan's images will take, where they are not in the store yet."""
    from host.errors import NotFound
    from instances import provision

    seconds = {"tiny": 3.0, "debian": 80.0}
    total_s = 0.0
    for image in {group.image for group in made.groups} & set(seconds):
        try:
            provision.store().resolve(image)
        except NotFound:
            total_s += seconds[image]
    return total_s


def _tell(out: Path, samples: list[Sample], litter: list[dict[str, Any]], conditions: Conditions) -> int:
    """Write results.csv and summary.md, print the table, and judge the conditions."""
    from bench.core import export, noise, store, summary, table
    from host import records

    rows = summary.rows(samples)
    records.write_bytes(out / "results.csv", export.to_csv(samples).encode())
    markdown = export.to_markdown(rows, store.described(out), noise.told(samples))
    records.write_bytes(out / "summary.md", markdown.encode())
    print(table.to_table(rows))
    if disturbed := table.disturbed(samples):
        print(disturbed + "\n")
    _tell_wanted(out, samples)
    for one in litter:
        if one["sure"]:
            _say(f"left behind by {one['cell']}, run {one['block']}: {one['kind']} {one['what']}")
    if not any(one.status == "ok" for one in samples):
        _say("no run worked")
        return 1
    return _judged(conditions, rows)


def _tell_wanted(out: Path, samples: list[Sample]) -> None:
    """The figures that the plan fixed beforehand, next to what was found."""
    from bench.core import plan, store, wanted

    described = store.described(out)
    found = wanted.judged(plan.from_record(described["plan"]), samples) if "plan" in described else []
    if found:
        print("figures that the plan wants, paired by block, with 95 % intervals")
        print(wanted.to_text(found) + "\n")


def _conditions(texts: list[str], baseline: Path | None, targets: tuple[str, ...]) -> Conditions:
    """Read before the campaign, so that a typo costs no measurement.

    Without conditions nothing is loaded: numpy and scipy in the campaign would weigh on every worker's fork.
    """
    if not texts:
        return Conditions([], [])
    from bench.core import condition, sample, summary

    parsed = [condition.parse(text) for text in texts]
    condition.check_targets(parsed, targets)
    base = summary.rows(sample.load(baseline).samples) if baseline else []
    return Conditions(parsed, base)


def _judged(conditions: Conditions, rows: list[Row]) -> int:
    """Exit status of --fail-if: 1 where a condition holds, each told with its numbers."""
    if not conditions.parsed:
        return 0
    from bench.core import condition

    held = condition.held(conditions.parsed, rows, conditions.baseline)
    for one in held:
        unknown = " (no run gave that number)" if math.isnan(one.left) or math.isnan(one.right) else ""
        _say(f"{one.group}: {one.text}: {one.left:.6g} against {one.right:.6g}{unknown}")
    return 1 if held else 0


def _compare(args: argparse.Namespace) -> int:
    from bench.core import compare, sample

    loaded = [sample.load(path) for path in args.results]
    for found in loaded:
        for note in found.notes:
            _say(note)
    if args.published:
        return _compare_published([one for found in loaded for one in found.samples])
    if args.targets:
        return _compare_targets(args, list(loaded[0].samples))
    if len(loaded) > 2:
        raise Usage("compare takes one or two results", hint="vmm bench history takes more")
    if len(loaded) == 1:
        print(f"{args.results[0]}: odd blocks (second) over even blocks (first)")
        odd, even = compare.odd_and_even(loaded[0].samples)
        first, second = even, odd
    else:
        print(f"{args.results[1]} (second) over {args.results[0]} (first)")
        first, second = list(loaded[0].samples), list(loaded[1].samples)
    verdicts = compare.compared(compare.by_cell(first), compare.by_cell(second), args.margin)
    print(compare.to_table(verdicts, args.margin), end="")
    return 0


def _compare_published(samples: list[Sample]) -> int:
    from bench import published

    found = published.compared(samples)
    if not found:
        raise Usage("nothing to compare", why="these results have no cell that a published table knows",
                    hint="vmm bench run experiments --quick makes them all")  # fmt: skip
    print(published.to_text(found))
    return 0


def _compare_targets(args: argparse.Namespace, samples: list[Sample]) -> int:
    from bench.core import compare

    names = args.targets.split(",")
    if len(names) != 2:
        raise Usage("cannot compare", repr(args.targets), "not two targets", "--targets ct,vm")
    verdicts = compare.paired_groups(samples, names[0], names[1], args.margin)
    if not verdicts:
        raise Usage("cannot compare", args.targets, "no group has starts of both")
    print(f"{args.results[0]}: {names[1]} (second) over {names[0]} (first), paired by block")
    print(compare.to_table(verdicts, args.margin), end="")
    return 0


def _history(args: argparse.Namespace) -> int:
    from bench.core import history, sample

    print(history.to_text({str(path): sample.load(path).samples for path in args.results}))
    return 0


def _export(args: argparse.Namespace) -> int:
    from bench.core import export, noise, sample, store, summary, table

    loaded = sample.load_all(args.results)
    for note in loaded.notes:
        _say(note)
    if args.format == "csv":
        text = export.to_csv(loaded.samples)
    else:
        rows = summary.rows(loaded.samples, args.base)
        described = store.described(args.results[0]) if args.results[0].is_dir() else {}
        text = {
            "json": lambda: export.to_json(rows),
            "md": lambda: export.to_markdown(rows, described, [*loaded.notes, *noise.told(loaded.samples)]),
            "text": lambda: "\n".join((table.to_table(rows), table.disturbed(loaded.samples))),
        }[args.format]()
    print(text, end="" if text.endswith("\n") else "\n")
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
