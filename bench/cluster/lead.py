"""The leader: hands out blocks, records every sample once, and goes on where hosts or the scheduler die."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bench.cluster.worker import ENGINE_SHARE, RESOURCE, measure_block
from bench.core import facts, noise, resume, sample
from bench.core.plan import Plan
from bench.core.progress import Progress
from bench.core.sample import Sample
from bench.core.store import Store
from host.errors import DeadlinePassed, Failure

LOST_S = 60.0
POLL_S = 0.5
RETRIES = 2


class Unit(NamedTuple):
    """One block of one group."""

    group: int
    block: int


@dataclass
class Lead:
    """A campaign led over the cluster at `address`; the block of a host that vanishes is tried elsewhere."""

    address: str
    name: str
    plan: Plan
    store: Store
    progress: Progress = field(default_factory=Progress)
    lost_s: float = LOST_S
    samples: list[Sample] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._engine_s: list[float] = []
        self._failures: Counter[Unit] = Counter()
        self._known: set[tuple[str, int, str]] = set()

    def run(self, recorded: list[Sample]) -> list[Sample]:
        """Have every block measured somewhere; raises DeadlinePassed when no host is there for `lost_s`."""
        for one in recorded:
            self._keep(one)
        outcome = "interrupted"
        self._describe("running")
        self._announce()
        try:
            self._until_done()
            outcome = "complete"
        except Failure as error:
            outcome = f"failed: {error}"
            raise
        finally:
            self.progress.end()
            self._describe(outcome)
        return self.samples

    def left(self) -> list[Unit]:
        """Blocks that have a cell which is not recorded: the plan minus the samples."""
        done = resume.done(self.samples)
        skipped = {(one.cell, one.host.get("id")) for one in self.samples if one.status == "skipped"}
        nowhere = {cell for cell, _ in skipped}
        return [
            Unit(index, number)
            for index, group in enumerate(self.plan.groups)
            for number in range(group.runs)
            if any((cell.key, number) not in done and cell.key not in nowhere for cell in group.cells())
        ]

    def _announce(self) -> None:
        left = Counter(cell.key for unit in self.left() for cell in self.plan.groups[unit.group].cells())
        self.progress.begin(left, {})

    def _until_done(self) -> None:
        """Connections one after the other: a scheduler that dies takes its tasks with it, not our samples."""
        seen_s, is_told = time.monotonic(), False
        while self.left():
            try:
                for _ in self._connected():
                    seen_s, is_told = time.monotonic(), False
            except (OSError, TimeoutError, _Lost):
                if not is_told:
                    self.progress.note(f"{self.address}: nobody is there; trying again for {self.lost_s:g} s")
                is_told = True
            if time.monotonic() - seen_s > self.lost_s:
                why = f"no host with {RESOURCE}=1 for {self.lost_s:g} s"
                hint = f"vmm bench worker {self.address}; vmm bench resume {self.store.folder} --cluster ..."
                raise DeadlinePassed("cannot go on", self.address, why, hint)
            if self.left():
                time.sleep(POLL_S)

    def _connected(self) -> Iterator[None]:
        """Hand out what is left over one connection; yields whenever a result came."""
        from distributed import Client

        # It tells every lost connection with a traceback; what we do about it is told by us.
        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
        with Client(self.address, timeout=5, set_as_default=False) as client:  # type: ignore[no-untyped-call]
            waiting = {self._submitted(client, unit): unit for unit in self.left()}
            idle_s = time.monotonic()
            while waiting:
                ended = [future for future in waiting if future.done()]
                if not ended:
                    self._look_at(client, idle_s)
                    time.sleep(0.01)
                    continue
                for future in ended:
                    unit = waiting.pop(future)
                    if self._took(future, unit):
                        idle_s = time.monotonic()
                        yield
                    elif self._failures[unit] <= RETRIES:
                        waiting[self._submitted(client, unit)] = unit

    def _look_at(self, client: Any, idle_s: float) -> None:
        """Raise _Lost where the scheduler or all hosts are gone."""
        if client.status != "running":
            raise _Lost
        if time.monotonic() - idle_s > self.lost_s and not client.scheduler_info()["workers"]:
            raise _Lost

    def _submitted(self, client: Any, unit: Unit) -> Any:
        asked = {
            "campaign": self.name,
            "plan": self.plan.to_record(),
            "group": unit.group,
            "block": unit.block,
        }
        key = f"{self.plan.hash}-{self.name}-{unit.group}-{unit.block}-{self._failures[unit]}"
        return client.submit(measure_block, asked, key=key, resources={RESOURCE: 1}, pure=False)

    def _took(self, future: Any, unit: Unit) -> bool:
        """Record a block's samples; False where it failed and may be tried again.

        Raises _Lost where it was cancelled: the scheduler went with all its tasks, which is no block's fault.
        """
        if future.status == "cancelled":
            raise _Lost
        if future.status != "finished":
            self._failures[unit] += 1
            words = str(future.exception()) if future.status == "error" else future.status
            self.progress.note(
                f"block {unit.block} of group {unit.group}: {words}; try {self._failures[unit] + 1}"
            )
            if self._failures[unit] > RETRIES:
                raise Failure("a block failed on every host that tried it", f"{unit}", words)
            return False
        told = future.result()
        self._engine_s.append(told["took_s"] - told["block_s"] - told["warm_s"])
        flagged = told["engine_share"] > ENGINE_SHARE
        for line in told["lines"]:
            self._append(sample.from_line(line), flagged)
        return True

    def _append(self, one: Sample, flagged: bool) -> None:
        """Record a sample unless the same was: a block may run twice where its host was believed dead."""
        if self._key(one) in self._known:
            return
        if flagged:
            one = Sample(**{**vars(one), "warnings": (*one.warnings, "engine")})
        self.store.append(one)
        self._keep(one)
        self.progress.done(one, 0.0)

    def _keep(self, one: Sample) -> None:
        self._known.add(self._key(one))
        self.samples.append(one)

    @staticmethod
    def _key(one: Sample) -> tuple[str, int, str]:
        """A run counts once wherever it was; warm-up and what is missing count once a host."""
        per_host = one.warmup or one.status == "skipped"
        return one.cell, one.block, str(one.host.get("id")) if per_host else ""

    def _describe(self, outcome: str) -> None:
        hosts = {str(one.host.get("id")): dict(one.host) for one in self.samples}
        self.store.describe(
            {
                "schema_version": 1,
                "campaign": self.name,
                "outcome": outcome,
                "plan": self.plan.to_record(),
                "plan_hash": self.plan.hash,
                "cluster": self.address,
                "hosts": hosts,
                "facts": facts.full(),
                "engine_s": self._engine_s,
                "warnings": noise.WARNINGS,
                "leaks": [],
                "stops": {},
            }
        )


class _Lost(Exception):
    """The scheduler, or every host, is gone."""
