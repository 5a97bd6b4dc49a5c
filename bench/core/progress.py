"""What a campaign says while it runs, on stderr: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import TextIO

from bench.core.sample import Sample
from bench.core.schedule import Turn

PLAIN_EVERY_S = 10.0
BAR_CELLS = 16


class Progress:
    """Counts turns, learns how long each cell takes, and tells what is left."""

    def __init__(self, out: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out or sys.stderr
        self._clock = clock
        self._live = self._out.isatty()
        self._expect_s: dict[str, float] = {}
        self._took_s: dict[str, list[float]] = defaultdict(list)
        self._left: dict[str, int] = {}
        self._total = self._done = 0
        self._told_s = self._began_s = clock()
        self._last = self._last_short = ""

    def begin(self, turns_left: Mapping[str, int], expect_s: Mapping[str, float]) -> None:
        """What is to be done: how many turns of each cell, and what the plan expects of one."""
        self._left, self._expect_s = dict(turns_left), dict(expect_s)
        self._total, self._began_s = sum(turns_left.values()), self._clock()

    def more(self, cell: str, count: int) -> None:
        """An adaptive plan adds turns."""
        self._left[cell] = self._left.get(cell, 0) + count
        self._total += count

    def turn(self, turn: Turn) -> None:
        """A run begins."""
        if self._live:
            now = f"{turn.cell.target} {'warm-up' if turn.warmup else turn.block + 1}"
            self._draw("  ".join(one for one in (now, self._last_short, turn.cell.group) if one))

    def done(self, sample: Sample, took_s: float) -> None:
        """A run has ended."""
        self._took_s[sample.cell].append(took_s)
        self._left[sample.cell] = max(self._left.get(sample.cell, 1) - 1, 0)
        self._done += 1
        self._last = f"{sample.cell} {_value(sample)}"
        self._last_short = f"(last: {sample.target} {_value(sample)})"
        if self._live:
            self._draw(f"{sample.target} {_value(sample)}  {sample.cell.rpartition('/')[0]}")
        elif self._clock() - self._told_s >= PLAIN_EVERY_S or sample.status not in ("ok", "skipped"):
            self._told_s = self._clock()
            self._out.write(f"{self._done}/{self._total}  {self._left_text()}  {self._last}\n")
            self._out.flush()

    def note(self, text: str) -> None:
        """One line that stays."""
        self._out.write(f"\r\x1b[K{text}\n" if self._live else f"{text}\n")
        self._out.flush()

    def end(self) -> None:
        """Clear the live line."""
        if self._live:
            self._out.write("\r\x1b[K")
            self._out.flush()

    def left_s(self) -> float:
        """Seconds that the rest will take: by what each cell took so far, else by what the plan expects."""
        return sum(count * self._one_s(cell) for cell, count in self._left.items())

    def _one_s(self, cell: str) -> float:
        took_s = sorted(self._took_s[cell])
        return took_s[len(took_s) // 2] if took_s else self._expect_s.get(cell, 1.0)

    def _left_text(self) -> str:
        left_s = round(self.left_s())
        return f"{left_s // 60}:{left_s % 60:02d} left"

    def _draw(self, what: str) -> None:
        """One line of the terminal's width: what matters most comes first."""
        full = BAR_CELLS * self._done // max(self._total, 1)
        head = f"[{'#' * full}{'.' * (BAR_CELLS - full)}] {self._done}/{self._total} {self._left_text()}  "
        columns = shutil.get_terminal_size().columns
        self._out.write("\r\x1b[K" + (head + what)[: columns - 1])
        self._out.flush()


def _value(sample: Sample) -> str:
    """The last value as one reads it: the start's length, or the first value, or what went wrong."""
    if sample.status != "ok":
        return f"{sample.status}: {(sample.error or '').splitlines()[0] if sample.error else ''}"
    end = sample.edges_ns.get("t8", sample.edges_ns.get("t9"))
    if end is not None:
        return f"{end / 1e6:.2f} ms" if end < 1e9 else f"{end / 1e9:.2f} s"
    return ", ".join(f"{name}={value:.6g}" for name, value in list(sample.values.items())[:1])
