"""A race in the terminal: one lane a target, each phase in its colour as it passes, all on one time axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from reports import palette, units
from reports.phases import PHASE_WORDS

if TYPE_CHECKING:
    from rich.text import Text

SHORTEST_AXIS_S = 0.02


@dataclass
class Lane:
    """What is known of one target's current or last run; `began_ns` is its t0 while it runs."""

    target: str
    edges_ns: dict[str, int] = field(default_factory=dict)
    began_ns: int | None = None
    state: str = "waits"

    def length_s(self, now_ns: int) -> float:
        """How long the bar is: to the reply, or to now."""
        if "t8" in self.edges_ns:
            return self.edges_ns["t8"] / 1e9
        return (now_ns - self.began_ns) / 1e9 if self.began_ns is not None else 0.0


def drawn(lanes: Sequence[Lane], width: int, now_ns: int) -> Text:
    """All lanes as coloured text, `width` columns wide."""
    from rich.text import Text

    names = max(len(lane.target) for lane in lanes) + 2
    room = max(width - names - 14, 10)
    longest_s = max(SHORTEST_AXIS_S, *(lane.length_s(now_ns) for lane in lanes))
    text = Text()
    for lane in lanes:
        text.append(f"{lane.target:>{names - 1}} ", style=f"bold {palette.ink(lane.target).dark}")
        used = _bar(text, lane, room / longest_s, now_ns)
        text.append(" " * max(room - used, 0))
        text.append(f" {_told(lane, now_ns):>11}\n\n", style="bold" if lane.state == "there" else "")
    text.append(" " * names)
    for edge, words in PHASE_WORDS.items():
        if any(edge in lane.edges_ns for lane in lanes) and edge != "t9":
            text.append("■ ", style=palette.PHASES[edge].dark)
            text.append(f"{words}  ", style="dim")
    return text


def _bar(text: Text, lane: Lane, columns_per_s: float, now_ns: int) -> int:
    """Draw the phases that have passed and the one that goes on; how many columns were used."""
    passed = sorted((at, edge) for edge, at in lane.edges_ns.items() if edge not in ("t0", "t9"))
    used = 0
    for at, edge in passed:
        end = max(round(at / 1e9 * columns_per_s), used)
        text.append("█" * (end - used), style=palette.PHASES[edge].dark)
        used = end
    goes_on = round(lane.length_s(now_ns) * columns_per_s)
    if goes_on > used:
        text.append("▒" * (goes_on - used), style="dim")
        used = goes_on
    if lane.length_s(now_ns) and not used:
        text.append("▏", style=palette.ink(lane.target).dark)
        used = 1
    return used


def _told(lane: Lane, now_ns: int) -> str:
    length_s = lane.length_s(now_ns)
    return units.seconds(length_s) if length_s else lane.state
