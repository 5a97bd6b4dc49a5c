"""A start as the bytes that `vmm-guest launch` reads: numbers and words, in the order of guest/launch.c.

A number is 64 bits, a word its length, its bytes and a NUL (length -1: NULL), a list its count and what is in
it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence

from containers.mounts import Op
from containers.plan import Plan
from host import rawsignal as signal
from host.linux import constants
from host.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from containers.launch import Ends, Launch, Streams

_VERSION = 1
# The phases of a start, as a report names them.
SETUP, CGROUP, PRIVILEGES, CWD, EXEC, TERMINAL, JOIN, NAMESPACES, CLOCKS, INTERPRETER = range(10)
REPORT = struct.Struct("iii")  # phase, step, errno; the path follows
PID = struct.Struct("i")
GO = b"g"

_number = struct.Struct("q").pack
_NULL = _number(-1)


def encoded(launch: Launch, streams: Streams, ends: Ends, death_signal: int, orphan: bool) -> bytes:
    """All that the launcher is to do; the descriptors are those that it inherits."""
    plan, wanted = launch.plan, launch.wanted
    out: list[bytes] = []
    _put(
        out,
        (
            (_VERSION, ends.report_write, ends.gate_read, ends.started_write),
            (_clone_flags(plan, orphan), ends.joins.get("pid", -1)),
            (_clocks(plan.time_offset_s), launch.maps is not None),
            [fd for kind, fd in ends.joins.items() if kind != "pid"],
            [*ends.trees.items()],
            _steps(launch.steps),
            (ends.doors, launch.cgroup.door, ends.porches),
            _steps(plan.late_ops),
            (*streams.stdio, *_terminal(launch, streams)),
            (plan.cwd, [*plan.candidates]),
            (streams.status, launch.under_helper, plan.umask, launch.leave),
            (wanted.program, wanted.no_new_privileges, wanted.capabilities, launch.last_capability),
            (wanted.uid, wanted.gid, [*wanted.groups], wanted.set_groups),
            (0 if launch.leave else death_signal, [*plan.argv], [*plan.env]),
        ),
    )
    return b"".join(out)


def _put(out: list[bytes], value: object) -> None:
    """A tuple is what is in it, one after the other; a list has its count before."""
    if isinstance(value, str):
        value = os.fsencode(value)
    if isinstance(value, bytes):
        out += (_number(len(value)), value, b"\0")
    elif isinstance(value, int):
        out.append(_number(value))
    elif value is None:
        out.append(_NULL)
    elif isinstance(value, (list, tuple)):
        if isinstance(value, list):
            out.append(_number(len(value)))
        for one in value:
            _put(out, one)
    else:
        raise TypeError(f"no number and no word: {value!r}")


def _clone_flags(plan: Plan, orphan: bool) -> int:
    """Our own child through CLONE_PARENT, or nobody's once the process in between has ended."""
    return plan.clone_flags | (signal.SIGCHLD if orphan else constants.CLONE_PARENT)


def _steps(ops: Sequence[Op]) -> list[object]:
    return [(op.call, [*op.args]) for op in ops]


def _terminal(launch: Launch, streams: Streams) -> tuple[int, ...]:
    wish = launch.terminal
    if wish is None:
        return (False,)
    master_to = streams.master_to.fileno() if streams.master_to else -1
    return True, wish.rows, wish.columns, wish.uid, wish.console, master_to


def _clocks(offset_s: float | None) -> str | None:
    """What /proc/self/timens_offsets takes (time_namespaces(7))."""
    if offset_s is None:
        return None
    seconds, fraction = divmod(offset_s, 1)
    words = f"{int(seconds)} {int(fraction * 1e9)}"
    return f"monotonic {words}\nboottime {words}\n"
