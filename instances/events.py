"""What happens to instances: commands write what they did, the reader adds what ended by itself.

One line of JSON an event in `$VMM_HOME/events.jsonl`, appended in one write(2) with O_APPEND, so that no two
commands mix their lines. The end of a detached instance has no command: who reads along derives it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from host import json_text, paths
from host.typing import Any, NamedTuple
from instances.kinds import ENDED

_MOST_BYTES = 1 << 20
_LOOK_EVERY_S = 0.1

Event = dict[str, Any]


def file() -> Path:
    """Where this home's events are."""
    return paths.home() / "events.jsonl"


def happened(what: str, name: str, kind: str, **more: Any) -> None:
    """Write an event. One that cannot be written (full disk) must not fail what it tells of."""
    import json

    line = json.dumps({"at_unix_s": round(time.time(), 3), "event": what, "name": name, "kind": kind, **more})
    try:
        fd = os.open(file(), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if os.fstat(fd).st_size > _MOST_BYTES:
                os.rename(file(), file().with_suffix(".jsonl.1"))
            os.write(fd, line.encode() + b"\n")
        finally:
            os.close(fd)
    except OSError:
        pass


def past() -> list[Event]:
    """The events that are still on disk, oldest first; a line that a crash cut is left out."""
    found = []
    for path in (file().with_suffix(".jsonl.1"), file()):
        try:
            lines = path.read_bytes().splitlines()
        except FileNotFoundError:
            continue
        for line in lines:
            try:
                found.append(json_text.loads(line))
            except ValueError:
                continue
    return found


class Seen(NamedTuple):
    """What was seen of one instance: `status` is None while it runs or where nobody knows it, `restarts`
    counts those that its policy or its health asked for.
    """

    kind: str
    state: str
    status: int | None = None
    health: str = ""
    restarts: int = 0


def follow(look: Callable[[], dict[str, Seen]]) -> Iterator[Event]:
    """Events from now on, for ever; `look` sees every instance and shows what happened by itself."""
    seen, known = _position(), look()
    while True:
        time.sleep(_LOOK_EVERY_S)
        told, seen = _since(seen)
        yield from told
        now = look()
        for name, one in now.items():
            for what, more in _by_itself(
                known.get(name), one, {e["event"] for e in told if e["name"] == name}
            ):
                yield {
                    "at_unix_s": round(time.time(), 3),
                    "event": what,
                    "name": name,
                    "kind": one.kind,
                    **more,
                }
        known = now


def _by_itself(before: Seen | None, now: Seen, told: set[str]) -> Iterator[tuple[str, Event]]:
    """What changed between two looks and no command has told: an end, a restart, another health."""
    if before is None:
        return
    if now.state in ENDED and before.state not in ENDED and not told & {"exited", "stopped", "killed"}:
        yield "exited", {"status": now.status}
    if now.restarts > before.restarts:
        yield "restarted", {}
    if now.health != before.health and now.health in ("healthy", "unhealthy"):
        yield now.health, {}


def _position() -> tuple[int, int]:
    try:
        status = os.stat(file())
    except FileNotFoundError:
        return 0, 0
    return status.st_ino, status.st_size


def _since(position: tuple[int, int]) -> tuple[list[Event], tuple[int, int]]:
    inode, offset = position
    try:
        with open(file(), "rb") as events:
            now = os.fstat(events.fileno()).st_ino
            if now == inode:
                events.seek(offset)
            data = events.read()
            end = events.tell()
    except FileNotFoundError:
        return [], position
    whole, _, rest = data.rpartition(b"\n")
    return [json_text.loads(line) for line in whole.splitlines()], (now, end - len(rest))
