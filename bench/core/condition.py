"""Conditions for CI: `ct.start.median > 1.1 * base`, `vm.tiny.start.ratio > 100`, `docker.start.bad > 0`.

A number is TARGET[.IMAGE].WHAT.STATISTIC, with `_` for `-`; `base` is the same number in the baseline.
The condition holds where it holds for any group that has the number.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from bench.core.summary import Row
from host.errors import Usage

_COMPARE: dict[type, Callable[[float, float], bool]] = {
    ast.Gt: operator.gt, ast.Lt: operator.lt, ast.GtE: operator.ge, ast.LtE: operator.le,
    ast.Eq: operator.eq, ast.NotEq: operator.ne,
}  # fmt: skip
_ARITHMETIC: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: lambda one, other: one / other if other else math.nan,
}  # fmt: skip
_STATISTICS: dict[str, Callable[[Row], float]] = {
    "median": lambda row: row.median.estimate,
    "low": lambda row: row.median.low,
    "high": lambda row: row.median.high,
    "ratio": lambda row: row.ratio.estimate if row.ratio else float("nan"),
    "n": lambda row: float(row.n),
    "bad": lambda row: float(row.bad),
}
_SUFFIXES = ("", "_s", "_bytes", "_ns", "_ratio")


class Condition(NamedTuple):
    """A condition as written, and its tree."""

    text: str
    tree: ast.Compare


class Held(NamedTuple):
    """A condition that holds: in which group, and the two numbers."""

    text: str
    group: str
    left: float
    right: float


def parse(text: str) -> Condition:
    """Read a condition; raises Usage that shows what cannot be read."""
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise _unreadable(text, error.msg or "syntax") from None
    if not isinstance(tree, ast.Compare) or len(tree.ops) != 1 or type(tree.ops[0]) not in _COMPARE:
        raise _unreadable(text, "not a comparison of two numbers")
    for side in (tree.left, *tree.comparators):
        _check(side, text)
    if not list(_numbers(tree, text)):
        raise _unreadable(text, "it names no measured number")
    return Condition(text, tree)


def _check(node: ast.expr, text: str) -> None:
    """Raise Usage for anything that is no arithmetic over numbers, so that it costs no campaign."""
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        _check(node.left, text)
        _check(node.right, text)
    elif not (isinstance(node, ast.Constant) and type(node.value) in (int, float)) and not _is_base(node):
        _name(node, text)


def check_targets(conditions: Sequence[Condition], targets: Sequence[str]) -> None:
    """Raise Usage for a condition about a target that the plan has not."""
    known = {name.replace("-", "_") for name in targets}
    for one in conditions:
        for target, *_ in _numbers(one.tree, one.text):
            if target not in known:
                raise _unreadable(one.text, f"the plan has no target {target!r}; it has {', '.join(targets)}")


def held(conditions: Sequence[Condition], rows: Sequence[Row], baseline: Sequence[Row] = ()) -> list[Held]:
    """Those that hold, and those that cannot be judged as no run gave the number (NaN): neither may pass a
    build. A number that no group has raises Usage.
    """
    return [one for condition in conditions for one in _held(condition, rows, baseline)]


def _held(condition: Condition, rows: Sequence[Row], baseline: Sequence[Row]) -> list[Held]:
    names = list(_numbers(condition.tree, condition.text))
    first = names[0]
    by_group = {
        one: [row for row in rows if row.group == one] for one in dict.fromkeys(r.group for r in rows)
    }
    groups = {one: mine for one, mine in by_group.items() if all(_row(mine, name) for name in names)}
    if not groups:
        told = " and ".join(".".join(name) for name in names)
        raise _unreadable(condition.text, f"no result has {told}")
    found = []
    for group, mine in groups.items():
        base = _base([row for row in baseline if row.group == group], first, condition.text)
        left = _value(condition.tree.left, mine, base, condition.text)
        right = _value(condition.tree.comparators[0], mine, base, condition.text)
        unknown = math.isnan(left) or math.isnan(right)
        if unknown or _COMPARE[type(condition.tree.ops[0])](left, right):
            found.append(Held(condition.text, group, left, right))
    return found


def _base(rows: Sequence[Row], name: tuple[str, ...], text: str) -> Callable[[], float]:
    def base() -> float:
        row = _row(rows, name)
        if row is None:
            raise Usage("cannot judge", repr(text), "the baseline has no such number", "--baseline RESULTS")
        return _STATISTICS[name[-1]](row)

    return base


def _value(node: ast.expr, rows: Sequence[Row], base: Callable[[], float], text: str) -> float:
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        left, right = _value(node.left, rows, base, text), _value(node.right, rows, base, text)
        return _ARITHMETIC[type(node.op)](left, right)
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return float(node.value)
    if _is_base(node):
        return base()
    row = _row(rows, _name(node, text))
    return float("nan") if row is None else _STATISTICS[_name(node, text)[-1]](row)


def _row(rows: Sequence[Row], name: tuple[str, ...]) -> Row | None:
    """The row of TARGET[.IMAGE].WHAT; its WHAT may lack the unit."""
    target, *image, what, _ = name
    for row in rows:
        right_image = not image or image[0] == row.group.split("/")[2].split(",")[0].replace("-", "_")
        right_what = row.what in [what + suffix for suffix in _SUFFIXES]
        if row.target.replace("-", "_") == target and right_image and right_what:
            return row
    return None


def _numbers(tree: ast.AST, text: str) -> Any:
    """Every measured number that is named, left to right."""
    if isinstance(tree, ast.Attribute):
        yield _name(tree, text)
        return
    for child in ast.iter_child_nodes(tree):
        yield from _numbers(child, text)


def _is_base(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "base"


def _name(node: ast.expr, text: str) -> tuple[str, ...]:
    words: list[str] = []
    while isinstance(node, ast.Attribute):
        words.insert(0, node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        raise _unreadable(text, "only numbers, + - * / and names can stand there")
    words.insert(0, node.id)
    if len(words) not in (3, 4) or words[-1] not in _STATISTICS:
        known = ", ".join(_STATISTICS)
        raise _unreadable(text, f"{'.'.join(words)} is not TARGET[.IMAGE].WHAT.STATISTIC ({known})")
    return tuple(words)


def _unreadable(text: str, why: str) -> Usage:
    return Usage("cannot read the condition", repr(text), why, "for example 'ct.start.median > 1.1 * base'")
