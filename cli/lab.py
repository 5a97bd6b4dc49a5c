"""vmm plan up down ps: several instances of both kinds from one lab.yaml."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from cli import run, table
from cli.listing import facts, state_words
from host.edges import Edges
from instances import labs, registry, runs, volumes
from instances.requests import RunRequest

_READY_S = 300.0


def configure(parser: argparse.ArgumentParser) -> None:
    """The flags of each word."""
    command = parser.get_default("command")
    parser.epilog = labs.__doc__
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("-f", "--file", metavar="FILE", default="lab.yaml", help="the lab (lab.yaml)")
    if command in ("plan", "ps"):
        parser.add_argument("--json", action="store_true", help="one JSON document")
    if command == "up":
        parser.add_argument("--dry-run", action="store_true", help="print the steps only, as plan does")
        parser.add_argument(
            "--timeout", metavar="S", type=float, default=_READY_S, help="for each need (300)"
        )
    if command == "down":
        parser.add_argument("-t", "--time", metavar="S", type=float, default=10.0, help="seconds to end in")
        parser.add_argument("--volumes", action="store_true", help="delete its volumes, too")


def main(args: argparse.Namespace) -> int:
    """Do the word."""
    lab = labs.read(Path(args.file))
    requests = {member.name: _request(lab, member) for member in lab.members}
    if args.command == "plan" or getattr(args, "dry_run", False):
        return _plan(lab, getattr(args, "json", False))
    return {"up": _up, "down": _down, "ps": _ps}[args.command](lab, args, requests)


def _request(lab: labs.Lab, member: labs.Member) -> RunRequest:
    """The member's words, read by the very parser of `vmm run`: a wrong one is told at once."""
    parser = argparse.ArgumentParser(prog=f"{lab.name}: {member.name}", allow_abbrev=False)
    parser.set_defaults(command="run")
    run.configure(parser)
    parser.usage = f"the keys of {member.name} are the flags of vmm run"
    made = run.request(parser.parse_args(list(member.words)))
    labels = (*made.labels, (labs.LAB, lab.name), (labs.SPEC, labs.digest(member)))
    return made._replace(detach=True, labels=labels)


def _plan(lab: labs.Lab, as_json: bool) -> int:
    steps = labs.plan(lab)
    if as_json:
        print(table.document(lab=lab.name, steps=[step._asdict() for step in steps]))
    else:
        rows = [[step.action, step.instance, step.reason] for step in steps]
        print(table.columns(["STEP", "INSTANCE", "WHY"], rows))
    return 0


def _up(lab: labs.Lab, args: argparse.Namespace, requests: dict[str, RunRequest]) -> int:
    steps = {step.instance: step for step in labs.plan(lab)}
    labs.make_networks(lab)
    for name in lab.volumes:
        volumes.ensure(name, {labs.LAB: lab.name})
    for step in steps.values():
        if step.action == "remove":
            _say(step)
            runs.remove(registry.load(step.instance), force=True)
    for member in lab.members:
        for need, condition in member.needs.items():
            runs.wait_for(registry.load(f"{lab.name}-{need}"), condition, args.timeout)
        _bring_up(steps[f"{lab.name}-{member.name}"], requests[member.name])
    return 0


def _bring_up(step: labs.Step, request: RunRequest) -> None:
    _say(step)
    if step.action == "replace":
        runs.remove(registry.load(step.instance), force=True)
    if step.action in ("make", "replace"):
        runs.run_detached(run.with_image(request), Edges())
    elif step.action == "start":
        runs.start(registry.load(step.instance))


def _say(step: labs.Step) -> None:
    print(f"{step.action:<8} {step.instance}", flush=True)


def _down(lab: labs.Lab, args: argparse.Namespace, requests: dict[str, RunRequest]) -> int:
    there = labs.own(lab)
    order = [f"{lab.name}-{member.name}" for member in reversed(lab.members)]
    for name in [*order, *(one for one in there if one not in order)]:
        if name in there:
            runs.stop(there[name].instance, args.time)
            runs.remove(there[name].instance, force=True)
            print(f"removed  {name}", flush=True)
    labs.remove_networks(lab)
    if args.volumes:
        known = {volume.name for volume in volumes.every()}
        for name in lab.volumes:
            if name in known:
                volumes.remove(name)
    return 0


def _ps(lab: labs.Lab, args: argparse.Namespace, requests: dict[str, RunRequest]) -> int:
    there = labs.own(lab)
    if args.json:
        print(
            json.dumps(
                {"schema_version": 1, "lab": lab.name, "instances": [facts(row) for row in there.values()]}
            )
        )
        return 0
    rows = []
    for member in lab.members:
        name = f"{lab.name}-{member.name}"
        row = there.get(name)
        state = state_words(row.state, row.status) if row else "not there"
        asked = requests[member.name]
        image = row.instance.image if row else asked.image or f"of {asked.template}"
        rows.append([name, asked.kind, image, state])
    print(table.columns(["INSTANCE", "KIND", "IMAGE", "STATE"], rows))
    return 0
