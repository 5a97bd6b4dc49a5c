"""A campaign: the plan's turns one after the other, each a sample on disk before the next begins."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from bench.core import facts, leaks, noise, overhead, resume, schedule, stopping, worker
from bench.core.plan import Group, Plan
from bench.core.progress import Progress
from bench.core.sample import Sample, times_s
from bench.core.schedule import Turn
from bench.core.store import Sink
from bench.core.target import Cell, Measure, Parts, Target, Unavailable
from host.errors import Failure


@dataclass
class Campaign:
    """One run of a plan into a store.

    `measure_of` finds an experiment's code; the folders `watched` are looked at for what runs leave there.
    """

    name: str
    plan: Plan
    store: Sink
    targets: Mapping[str, Target]
    measure_of: Callable[[Cell], Measure]
    progress: Progress = field(default_factory=Progress)
    watched: Sequence[Path] = ()
    command_line: Sequence[str] = ()
    samples: list[Sample] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._facts = facts.full()
        self._host = facts.short(self._facts)
        self._versions = {"vmm": facts.ours()}
        self._prepared: dict[tuple[str, str, str], Parts | None] = {}
        self._impossible: dict[str, Parts] = {}
        self._litter: list[tuple[str, int, leaks.Litter]] = []
        self._stops: dict[str, str] = {}
        self._known_children: frozenset[int] = frozenset()
        self._usable: set[str] = set()
        self._overhead: dict[str, float] = {}

    def run(self, recorded: Iterable[Sample] = ()) -> list[Sample]:
        """Do what is left of the plan; returns all samples, the recorded ones first.

        KeyboardInterrupt passes through after the running worker has ended and every target has cleaned up.
        """
        self.samples = list(recorded)
        leaks.adopt_orphans()
        self._describe("running")
        outcome = "interrupted"
        try:
            self._overhead = overhead.measured()
            self._look_around()
            self._prepare_all()
            self._announce()
            for index in range(len(self.plan.groups)):
                self._group(index)
            outcome = "complete"
        except Failure as error:
            outcome = f"failed: {error}"
            raise
        finally:
            self._end(outcome)
        return self.samples

    # -- what is there, and what is to do ------------------------------------------------------------------

    def open(self) -> None:
        """Make this process ready to run single blocks, for a campaign that is led from elsewhere."""
        leaks.adopt_orphans()
        self._look_around()

    def block(self, index: int, number: int) -> None:
        """One block of one group; failures are samples. `open` came before, `close` comes after the last."""
        group = self.plan.groups[index]
        for turn in self._turns(index, number):
            self._turn(turn, group.batch)

    def close(self) -> None:
        """Clean every target up."""
        self._end("closed")

    def _look_around(self) -> None:
        """Which targets can be used; a missing one is a sample in every group that asks for it."""
        for name in self.plan.targets:
            missing = self._why_missing(name)
            if missing is None:
                self._usable.add(name)
                self._versions |= self.targets[name].versions()
                continue
            hint = f" ({missing.hint})" if missing.hint else ""
            self.progress.note(f"{name}: skipped: {missing.why}{hint}")
            for group in self.plan.groups:
                for cell in group.cells():
                    if cell.target == name:
                        self._skip(cell, missing)

    def _why_missing(self, name: str) -> Unavailable | None:
        if name not in self.targets:
            return Unavailable("no target of that name", "vmm bench list --targets")
        return self.targets[name].why_unavailable()

    def _skip(self, cell: Cell, missing: Unavailable) -> None:
        already = any(one.cell == cell.key and one.status == "skipped" for one in self.samples)
        if not already:
            parts = Parts("skipped", error=missing.why, hint=missing.hint or None)
            self._save(Turn(cell, 0, 0), parts, time.time())

    def _cells(self, group: Group) -> list[Cell]:
        """The cells of a group that can be run here."""
        return [cell for cell in group.cells() if cell.target in self._usable]

    def _turns(self, index: int, number: int | None = None) -> tuple[Turn, ...]:
        """The turns of one block of a group, or of all that are planned for sure; missing targets left out.

        Order and place come from the plan alone: the same on every host, and after a resume.
        """
        group, first = self.plan.groups[index], sum(one.size for one in self.plan.groups[:index])
        numbers = range(-group.warmup, group.runs) if number is None else (number,)
        return tuple(
            turn
            for one in numbers
            for turn in schedule.block(group, self.plan.seed, one, first)
            if turn.cell.target in self._usable
        )

    def _prepare_all(self) -> None:
        """Make images, disks and daemons before the first timed block, not in the middle of it."""
        began_s = time.monotonic()
        for group in self.plan.groups:
            for cell in self._cells(group):
                self._prepare(cell)
        took_s = time.monotonic() - began_s
        if took_s > 1:
            self.progress.note(f"prepared in {took_s:.0f} s")

    def _announce(self) -> None:
        recorded = resume.done(self.samples)
        left: dict[str, int] = {}
        expect_s: dict[str, float] = {}
        for index, group in enumerate(self.plan.groups):
            for turn in resume.left(self._turns(index), recorded):
                left[turn.cell.key] = left.get(turn.cell.key, 0) + 1
                expected = group.expect_s.get(turn.cell.target, group.expect_s.get("default", 1.0))
                expect_s[turn.cell.key] = expected
        self.progress.begin(left, expect_s)
        if any(one.status != "skipped" for one in self.samples):
            self.progress.note(f"resumed: {len(recorded)} runs are recorded, {sum(left.values())} are left")

    # -- one group -----------------------------------------------------------------------------------------

    def _group(self, index: int) -> None:
        """Blocks until the plan's runs are done; an adaptive group goes on until it is precise enough."""
        group, recorded = self.plan.groups[index], resume.done(self.samples)
        looks, adaptive = stopping.Looks(group), group.max_runs > group.runs
        stopped = False
        for number in range(-group.warmup, max(group.runs, group.max_runs)):
            stopped = adaptive and looks.are_enough(number, self._starts(group))
            if stopped:
                break
            for turn in resume.left(self._turns(index, number), recorded):
                if number >= group.runs:
                    self.progress.more(turn.cell.key, 1)
                self._turn(turn, group.batch)
        if adaptive and self._cells(group):
            self._stops[group.cells()[0].group] = looks.words(number if stopped else number + 1, stopped)

    def _starts(self, group: Group) -> list[list[float]]:
        """Seconds of the starts of each target that had a good one."""
        keys = [cell.key for cell in group.cells()]
        found = [times_s(one for one in self.samples if one.cell == key) for key in keys]
        return [values for values in found if values]

    def _turn(self, turn: Turn, batch: int) -> None:
        self.progress.turn(turn)
        refused = self._prepare(turn.cell) or self._impossible.get(turn.cell.key)
        if refused is not None:
            self._save(turn, refused, time.time())
            self.progress.done(self.samples[-1], 0.0)
            return
        self._known_children = leaks.children()
        there = leaks.snapshot(self.watched)
        cell = replace(turn.cell, run=turn.order)
        job = partial(self.measure_of(cell), self.targets[cell.target], cell)
        watch = noise.Watch(self._host["cores"])
        for ran in worker.runs(job, batch, turn.cell.deadline_s):
            warned = watch.warnings()
            if ran.is_last:
                warned += self._look_for_litter(turn, there)
            for parts in ran.parts:
                self._save(turn, parts, ran.began_unix_s, warned)
                if parts.status == "skipped":  # it costs a start to hear the same once more
                    self._impossible[turn.cell.key] = parts
            self.progress.done(self.samples[-1], ran.took_s)
            if ran.is_broken:
                self._recover(turn.cell.target)

    def _recover(self, name: str) -> None:
        """A worker was killed in the middle: let its target clean up, and make it ready anew."""
        self._clean(name)
        for key in [key for key in self._prepared if key[0] == name]:
            del self._prepared[key]

    def _prepare(self, cell: Cell) -> Parts | None:
        """Make the target ready for the cell once; a failure is kept and stands for every run of the cell."""
        key = (cell.target, cell.image, cell.mode)
        if key not in self._prepared:
            try:
                self.targets[cell.target].prepare(cell)
                self._versions |= self.targets[cell.target].versions()  # an image's digest is known now
                self._prepared[key] = None
            except Exception as error:  # a target's fault is its own result, never the campaign's end
                words = (
                    f"cannot prepare: {error}" if isinstance(error, Failure) else f"cannot prepare: {error!r}"
                )
                self._prepared[key] = Parts("failed", error=words, hint=getattr(error, "hint", None) or None)
                self.progress.note(f"{cell.key}: {words}")
        return self._prepared[key]

    @property
    def _daemons(self) -> set[str]:
        return {word for target in self.targets.values() for word in target.daemons}

    def _look_for_litter(self, turn: Turn, there: leaks.Snapshot) -> tuple[str, ...]:
        left = leaks.end_strays(self._known_children, self._daemons)
        new = leaks.snapshot(self.watched) - there
        appeared = {one for one in new if not leaks.is_kept(one, self._daemons)}
        self._litter += [(turn.cell.key, turn.block, one) for one in (*left, *sorted(appeared))]
        return ("leak",) if left or any(one.kind in leaks.OURS for one in appeared) else ()

    def _save(self, turn: Turn, parts: Parts, began_unix_s: float, warned: tuple[str, ...] = ()) -> None:
        parts = _checked(parts)
        if self._is_short(parts):
            warned = (*warned, "short")
        sample = Sample(
            campaign=self.name,
            plan_hash=self.plan.hash,
            experiment=turn.cell.experiment,
            cell=turn.cell.key,
            target=turn.cell.target,
            image=turn.cell.image,
            mode=turn.cell.mode,
            block=turn.block,
            order=turn.order,
            warmup=turn.warmup,
            status=parts.status,
            error=parts.error,
            hint=parts.hint,
            exit_status=parts.exit_status,
            accelerator=parts.accelerator,
            way=parts.way,
            edges_ns=parts.edges_ns,
            values=parts.values,
            began_unix_s=round(began_unix_s, 6),
            host=self._host,
            versions=self._versions,
            warnings=warned,
        )
        self.store.append(sample)
        self.samples.append(sample)

    def _is_short(self, parts: Parts) -> bool:
        """Whether waking on the first byte is more than a twentieth of the start."""
        start_ns = parts.edges_ns.get("t8", 0)
        return bool(start_ns) and start_ns < 20 * self._overhead.get("wake_ns", 0.0)

    # -- the end -------------------------------------------------------------------------------------------

    def _end(self, outcome: str) -> None:
        """Clean every target up, whatever the others do; then say how it ended."""
        for name in dict.fromkeys(key[0] for key in self._prepared):
            self._clean(name)
        strays = leaks.end_strays(frozenset(), self._daemons)
        self._litter += [("campaign", 0, one) for one in strays]
        self.progress.end()
        self._describe(outcome)

    def _clean(self, name: str) -> None:
        try:
            self.targets[name].cleanup()
        except Exception as error:  # the next one must still be cleaned
            self.progress.note(f"{name}: cannot clean up: {error!r}")

    def litter(self) -> list[dict[str, Any]]:
        """What runs left behind and is still there, and the processes that had to be killed.

        Where it is not `sure`, a neighbour on the host may have made it at the same time.
        """
        now = leaks.snapshot(self.watched)
        return [
            {"cell": cell, "block": block, "kind": one.kind, "what": one.what, "sure": one.kind in leaks.OURS}
            for cell, block, one in self._litter
            if one.kind == "process" or one in now
        ]

    def _describe(self, outcome: str) -> None:
        self.store.describe(
            {
                "schema_version": 1,
                "campaign": self.name,
                "outcome": outcome,
                "plan": self.plan.to_record(),
                "plan_hash": self.plan.hash,
                "command_line": list(self.command_line),
                "facts": self._facts,
                "versions": self._versions,
                "overhead": self._overhead,
                "stops": self._stops,
                "leaks": self.litter(),
                "warnings": noise.WARNINGS,
                "process": os.getpid(),
            }
        )


def _checked(parts: Parts) -> Parts:
    """The parts, or a failed sample in their place where a number is none or time ran backwards."""
    wrong = [name for name, value in parts.values.items() if not _is_number(value)]
    wrong += [edge for edge, at_ns in parts.edges_ns.items() if not _is_number(at_ns) or at_ns < 0]
    if not wrong:
        return parts
    kept = {name: value for name, value in parts.values.items() if name not in wrong}
    edges = {edge: at_ns for edge, at_ns in parts.edges_ns.items() if edge not in wrong}
    words = f"the target told garbage: {', '.join(wrong)}"
    return replace(parts, status="failed", error=words, values=kept, edges_ns=edges)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and value == value and abs(value) != float("inf")
