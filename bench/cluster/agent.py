"""The process on a host that really measures: single-threaded, fed with blocks, telling samples.

Dask's worker has threads and a heap of its own; measuring workers must not be forked from that.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from bench import experiments, targets
from bench.core import plan
from bench.core.campaign import Campaign
from bench.core.progress import Progress
from bench.core.sample import Sample
from host import paths
from host.linux import syscalls


class Teller:
    """Samples as lines of JSON on a stream."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def append(self, sample: Sample) -> None:
        """Tell one sample."""
        self.tell({"sample": sample.to_line()})

    def describe(self, campaign: Mapping[str, Any]) -> None:
        """The leader describes the campaign."""

    def tell(self, line: Mapping[str, Any]) -> None:
        """One line, at once."""
        self._out.write(json.dumps(line) + "\n")
        self._out.flush()


class Agent:
    """Campaigns that were asked for so far, each with its targets made ready once."""

    def __init__(self, teller: Teller) -> None:
        self._teller = teller
        self._campaigns: dict[str, Campaign] = {}
        self._warm: set[tuple[str, int]] = set()

    def measure(self, asked: Mapping[str, Any]) -> None:
        """One block; before a group's first one on this host its warm-up."""
        name, index, number = asked["campaign"], asked["group"], asked["block"]
        began_s = time.monotonic()
        campaign = self._campaign(name, asked["plan"])
        if (name, index) not in self._warm:
            self._warm.add((name, index))
            for warm in range(-campaign.plan.groups[index].warmup, 0):
                campaign.block(index, warm)
        warmed_s = time.monotonic()
        campaign.block(index, number)
        ended_s = time.monotonic()
        self._teller.tell({"end": True, "warm_s": warmed_s - began_s, "block_s": ended_s - warmed_s})

    def _campaign(self, name: str, record: Mapping[str, Any]) -> Campaign:
        if name not in self._campaigns:
            made = plan.from_record(record)
            quiet = Progress(open(os.devnull, "w"))  # noqa: SIM115 - as long as the agent
            watched = (paths.instances_dir(), paths.run_dir())
            self._campaigns[name] = Campaign(
                name, made, self._teller, targets.load(made.targets), experiments.measure_of, quiet, watched
            )
            self._campaigns[name].open()
        return self._campaigns[name]

    def close(self) -> None:
        """Clean up after all campaigns."""
        for campaign in self._campaigns.values():
            campaign.close()


def main() -> int:
    """Serve until stdin closes or the Dask worker dies."""
    parent = os.getppid()
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        return 1
    agent = Agent(Teller(sys.stdout))
    try:
        for line in sys.stdin:
            agent.measure(json.loads(line))
    finally:
        agent.close()
    return 0


def _leave(number: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
