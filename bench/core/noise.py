"""What may have disturbed a run: enumerated, so that a warning is data before it is text."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from bench.core.sample import Sample

WARNINGS = {
    "load": "more processes wanted to run than there are cores when the run began",
    "steal": "the hypervisor below took more than 1 % of the processors' time",
    "others": "other processes used more than a tenth of the processors during the run",
    "pressure": "tasks waited for a processor more than a fifth of the time (PSI)",
    "swap": "the host swapped",
    "frequency": "the processor's frequency changed by more than a tenth",
    "clock-step": "the wall clock was set during the run; durations come from CLOCK_MONOTONIC and are right",
    "leak": "something was left behind after the run",
    "engine": "the cluster engine's own worker used more than 1 % of a processor during the run",
    "short": "hearing the first byte takes more than a twentieth of such a start (campaign.json: overhead)",
}
EVERY_S = 0.05
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class Reading(NamedTuple):
    """The host's counters at one moment."""

    at_s: float
    wall_s: float
    steal_ticks: int
    busy_ticks: int
    all_ticks: int
    ours_s: float
    stalled_us: int
    swapped_pages: int
    khz: int
    running: float


def read() -> Reading:
    """Read the counters; about 0.1 ms, outside every timed interval."""
    ticks = [int(word) for word in _line("/proc/stat", "cpu ").split()[1:9]]
    user, nice, system, idle, iowait, irq, softirq, steal = ticks
    times = os.times()
    return Reading(
        at_s=time.monotonic(),
        wall_s=time.time(),
        steal_ticks=steal,
        busy_ticks=user + nice + system + irq + softirq,
        all_ticks=user + nice + system + idle + iowait + irq + softirq + steal,
        ours_s=times.user + times.system + times.children_user + times.children_system,
        stalled_us=_stalled_us(),
        swapped_pages=_swapped(),
        khz=_khz(),
        running=os.getloadavg()[0],
    )


class Watch:
    """Readings around the runs of one worker, 50 ms apart at least: each costs as much as a short run."""

    def __init__(self, cores: int) -> None:
        self._cores, self._last = cores, read()

    def warnings(self) -> tuple[str, ...]:
        """What disturbed the time since the last reading; nothing is told of less than 50 ms."""
        if time.monotonic() - self._last.at_s < EVERY_S:
            return ()
        before, self._last = self._last, read()
        return warnings(before, self._last, self._cores)


def warnings(before: Reading, after: Reading, cores: int, instance_s: float = 0.0) -> tuple[str, ...]:
    """Codes of `WARNINGS` for what happened between two readings.

    `instance_s` is processor time that the run used beyond our own process tree (a daemon's).
    """
    found = []
    span = max(after.all_ticks - before.all_ticks, 1)
    length_s = max(after.at_s - before.at_s, 1e-9)
    if before.running > cores:
        found.append("load")
    if span > 20 and (after.steal_ticks - before.steal_ticks) / span > 0.01:
        found.append("steal")
    others_s = (after.busy_ticks - before.busy_ticks) * TICK_S - (after.ours_s - before.ours_s) - instance_s
    if span > 20 and others_s / (length_s * cores) > 0.1:
        found.append("others")
    if length_s > 0.1 and (after.stalled_us - before.stalled_us) / (length_s * 1e6) > 0.2:
        found.append("pressure")
    if after.swapped_pages > before.swapped_pages:
        found.append("swap")
    if before.khz and abs(after.khz / before.khz - 1) > 0.1:
        found.append("frequency")
    if abs((after.wall_s - before.wall_s) - (after.at_s - before.at_s)) > 0.1:
        found.append("clock-step")
    return tuple(found)


def told(samples: Iterable[Sample]) -> list[str]:
    """One line a warning: how many runs it is about, its code, what it means."""
    ran = [one for one in samples if one.status != "skipped"]
    found = Counter(code for one in ran for code in one.warnings)
    return [
        f"{count} of {len(ran)} runs: {code}: {WARNINGS.get(code, 'unknown here')}"
        for code, count in found.most_common()
    ]


def _line(path: str, start: str) -> str:
    try:
        with open(path) as text:
            for line in text:
                if line.startswith(start):
                    return line
    except OSError:
        pass
    return ""


def _stalled_us() -> int:
    return int(_line("/proc/pressure/cpu", "some").partition("total=")[2] or 0)


def _swapped() -> int:
    words = _line("/proc/vmstat", "pswpin").split() + _line("/proc/vmstat", "pswpout").split()
    return sum(int(word) for word in words if word.isdigit())


def _khz() -> int:
    return int(_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "").strip() or 0)
