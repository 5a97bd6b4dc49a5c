"""vmm race: the same image on every target, lanes live in the terminal; the samples are ordinary bench
samples."""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from bench.core.progress import Progress
from host.errors import Failure, HostUnfit, Usage

if TYPE_CHECKING:
    from rich.text import Text

    from bench.core.campaign import Campaign
    from bench.core.plan import Plan
    from bench.core.sample import Sample
    from bench.core.schedule import Turn
    from bench.core.target import Cell, Measure, Parts, Target
    from reports.terminal_race import Lane

TARGETS = "process,ct,bubblewrap,runc,docker,vm-clone,vm,vm-libvirt"
SHORT = {"clone": "vm-clone", "libvirt": "vm-libvirt", "bwrap": "bubblewrap"}
REFRESH_A_SECOND = 20


def configure(parser: argparse.ArgumentParser) -> None:
    """The words of vmm race."""
    parser.add_argument("image", metavar="IMAGE")
    parser.add_argument(
        "--targets", default=TARGETS, metavar="A,B", help=f"who races (of {TARGETS} what is there)"
    )
    parser.add_argument("--runs", type=int, default=1, help="runs of each after one warm-up (1)")
    parser.add_argument(
        "-o", "--out", type=Path, default=Path("out/race"), help="folder of the samples (out/race)"
    )
    parser.add_argument("--record", type=Path, metavar="FILE.svg", help="keep the race as an animation")


def main(args: argparse.Namespace) -> int:
    """Race, then say who was there when."""
    if args.runs < 1:
        raise Usage("a race has at least one run", f"--runs {args.runs}")
    plan = _plan(args.image, racers(args.targets), args.runs)
    from bench.core import store

    _fetch(args.image, plan.targets)
    store.set_aside(args.out)
    samples = _raced(plan, args.out)
    ended = _ranking(samples)
    if args.record:
        _record(samples, args.record)
        print(args.record, file=sys.stderr)
    return 0 if ended else 1


def _fetch(image: str, names: tuple[str, ...]) -> None:
    """Have the image made or pulled before anybody starts: one that is nowhere is told once."""
    from bench.targets import HIDDEN
    from instances import provision

    if set(names) - HIDDEN:  # the harness' own know no images
        provision.image(image)


def racers(words: str) -> list[str]:
    """The targets of `A,B`, each once; the short names of the design are known too."""
    return list(dict.fromkeys(SHORT.get(name, name) for name in words.split(",")))


def _plan(image: str, names: list[str], runs: int) -> Plan:
    from bench import targets
    from bench.core.plan import Group, Plan

    unknown = [name for name in names if name not in targets.TARGETS]
    if unknown:
        hint = f"there are {', '.join(name for name in targets.TARGETS if name not in targets.HIDDEN)}"
        raise Usage("no such target", ", ".join(unknown), hint=hint)
    there = [name for name, one in targets.load(names).items() if one.why_unavailable() is None]
    if not there:
        hint = "vmm bench list --targets says why"
        raise HostUnfit("nobody can race here", ", ".join(names), "no target is available", hint)
    group = Group("start", "command", image, tuple(there), runs=runs, deadline_s=120)
    return Plan("race", "Who is there first?", secrets.randbits(31), (group,))


def _raced(plan: Plan, out: Path) -> list[Sample]:
    """Run the plan as a campaign; each run's edges reach the lanes while it happens."""
    from bench import experiments, targets
    from bench.core.campaign import Campaign
    from bench.core.store import Store
    from host import paths

    course = Course(plan.targets)
    with Store(out) as store, course.shown():
        campaign = Campaign(
            name=f"race-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}",
            plan=plan,
            store=store,
            targets=targets.load(plan.targets),
            measure_of=lambda cell: course.watched(experiments.measure_of(cell)),
            progress=course,
            watched=(paths.instances_dir(), paths.run_dir()),
            command_line=sys.argv,
        )
        return _run(campaign)


def _run(campaign: Campaign) -> list[Sample]:
    try:
        return campaign.run()
    except KeyboardInterrupt:
        print(f"interrupted after {len(campaign.samples)} runs", file=sys.stderr)
        return campaign.samples


class Course(Progress):
    """The lanes of a race: fed by edges while a run goes on and by its sample when it has ended."""

    def __init__(self, names: tuple[str, ...]) -> None:
        from reports.terminal_race import Lane

        super().__init__()
        self._live = False
        self.lanes: dict[str, Lane] = {name: Lane(name) for name in names}
        self._now: Lane | None = None
        self._fd = 2
        # An abstract socket: the worker closes the descriptors that it inherits, but it knows the name.
        self._name = f"\0vmm-race-{os.getpid()}-{secrets.token_hex(4)}"
        self._ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._ear.bind(self._name)

    def watched(self, measure: Measure) -> Measure:
        """The measure with its stamps told to this process: it runs in a worker that was forked from it."""

        def run(target: Target, cell: Cell) -> Parts | tuple[Parts, ...]:
            from host.edges import Edges

            Edges.watcher = self._tell
            return measure(target, cell)

        return run

    def _tell(self, edge: str, at_ns: int) -> None:
        self._say(f"{edge} {at_ns}")

    def _say(self, message: str) -> None:
        """Without waiting: who watches a race must not be able to stop it."""
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as mouth,
            contextlib.suppress(OSError),
        ):
            mouth.setblocking(False)
            mouth.sendto(message.encode(), self._name)

    def turn(self, turn: Turn) -> None:
        """A run begins: its lane is empty again."""
        lane = self.lanes[turn.cell.target]
        lane.edges_ns, lane.began_ns = {}, None
        lane.state = "warms up" if turn.warmup else "runs"
        self._now = lane

    def done(self, sample: Sample, took_s: float) -> None:
        """A run has ended: what counts is its sample."""
        lane = self.lanes[sample.target]
        lane.began_ns, self._now = None, None
        if sample.status == "ok" and "t8" in sample.edges_ns:
            lane.edges_ns, lane.state = dict(sample.edges_ns), "there"
        else:
            lane.edges_ns, lane.state = {}, sample.status

    def _listen(self) -> None:
        """Stamps from the worker, until an empty message ends it."""
        while message := self._ear.recv(64):
            edge, _, at = message.decode().partition(" ")
            self._stamp(edge, int(at))

    def _stamp(self, edge: str, at_ns: int) -> None:
        lane = self._now
        if lane is None:
            return
        if lane.began_ns is None:
            lane.began_ns = at_ns  # the first mark of a start is t0
        lane.edges_ns = {**lane.edges_ns, edge: at_ns - lane.began_ns}

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Lanes on a terminal while the context lasts; elsewhere nothing but the ranking at the end."""
        listener = threading.Thread(target=self._listen, daemon=True)
        listener.start()
        try:
            with self._display():
                yield
        finally:
            self._say("")
            listener.join(timeout=1)
            self._ear.close()

    @contextmanager
    def _display(self) -> Iterator[None]:
        from rich.console import Console
        from rich.live import Live

        if not Console(stderr=True).is_terminal:
            yield
            return
        with _words_kept() as terminal:
            self._fd = terminal.fileno()
            console = Console(
                file=terminal, force_terminal=True, width=os.get_terminal_size(self._fd).columns
            )
            with Live(self, console=console, refresh_per_second=REFRESH_A_SECOND):
                yield

    def __rich__(self) -> Text:
        from reports.terminal_race import drawn

        columns = os.get_terminal_size(self._fd).columns if os.isatty(self._fd) else 100
        return drawn(list(self.lanes.values()), columns, time.monotonic_ns())


@contextmanager
def _words_kept() -> Iterator[IO[str]]:
    """The terminal behind stderr, for the lanes alone: what the runners say meanwhile is told afterwards."""
    with os.fdopen(os.dup(2), "w") as terminal, tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield terminal
        finally:
            os.dup2(terminal.fileno(), 2)
            said.seek(0)
            sys.stderr.write(said.read().decode(errors="replace"))


def _ranking(samples: list[Sample]) -> bool:
    """Print who was there when, the fastest first; False where nobody arrived."""
    from reports import units
    from reports.gathered import groups

    for group in groups(samples, ["command"]):
        from reports.summaries import start_time, summaries

        found = sorted(summaries(group, start_time, "ct"), key=lambda one: one.median.estimate)
        for place, one in enumerate(found, 1):
            times = f"  {units.times(one.ratio.estimate)} ct" if one.ratio else ""
            told = units.seconds(one.median.estimate)
            print(f"{place}. {one.series.label:<20} {told:>10}{times}  (n = {one.n})")
        return bool(found)
    for sample in samples:
        if sample.error:
            print(f"{sample.target}: {sample.error}", file=sys.stderr)
    return False


def _record(samples: list[Sample], path: Path) -> None:
    """The middle run of each target as an animated SVG that needs nothing beside it."""
    from reports.figures.figure import WIDE
    from reports.figures.race import draw, lanes_of
    from reports.gathered import groups
    from reports.page import style
    from reports.svg import standalone

    found = groups(samples, ["command"])
    lanes = lanes_of(found[0]) if found else []
    if not lanes:
        raise Failure("cannot record the race", str(path), "nobody arrived")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(standalone(draw(lanes, WIDE).render(), style()), encoding="utf-8")
