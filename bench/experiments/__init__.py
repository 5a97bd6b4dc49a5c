"""Experiments: each a folder with its question and plan (plan.toml) and, where needed, its code (measure.py).

What an experiment is given is a target (a Protocol of bench.core) and a cell; what it gives back are parts of
samples. Starts, memory and disk need no code of their own.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from bench.core import idle, plan
from bench.core.plan import Plan
from bench.core.target import Cell, Measure, Parts, Target
from host.errors import Usage

SLOPE = "memory-slope"


def plans() -> dict[str, Path]:
    """Every plan that comes with vmm: name -> plan.toml."""
    here = Path(__file__).parent
    return {path.parent.name.replace("_", "-"): path for path in sorted(here.glob("*/plan.toml"))}


def plan_path(word: str) -> Path:
    """The plan of that name, or the file; an experiment's number alone will do (`e1`). Raises Usage."""
    known = plans()
    if word in known:
        return known[word]
    if Path(word).is_file():
        return Path(word)
    number = word.lower().removeprefix("e").zfill(2)
    near = [name for name in known if name.split("-")[0] == f"e{number}"]
    if len(near) == 1:
        return known[near[0]]
    raise Usage("no plan", repr(word), "it is neither a plan of ours nor a file", "vmm bench list shows ours")


def everything() -> Plan:
    """All numbered experiments as one plan."""
    loaded = [plan.load(path) for name, path in plans().items() if name[0] == "e" and name[1:3].isdigit()]
    groups = tuple(group for one in loaded for group in one.groups)
    return Plan(
        "experiments", "What does each kind of isolation cost, from E1 to E20?", loaded[0].seed, groups
    )


def measure_of(cell: Cell) -> Measure:
    """The code that measures a cell: the experiment's own, or what its mode says."""
    module = f"bench.experiments.{cell.experiment.replace('-', '_')}.measure"
    if _exists(module):
        own: Measure = import_module(module).measure
        return own
    if cell.experiment == SLOPE:
        return idle.slope
    return {"memory": idle.memory, "disk": _disk}.get(cell.mode, _start)


def _exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _start(target: Target, cell: Cell) -> Parts:
    return target.run_once(cell)


def _disk(target: Target, cell: Cell) -> Parts:
    return target.disk(cell)
