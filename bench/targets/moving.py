"""Our instances kept and moved while they run: snapshots, and a live clone as the way to another place."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from instances.registry import Instance

TAG = "bench"


def snapshot(instance: Instance) -> tuple[dict[str, float], str]:
    """`snapshot_s`, `restore_s` and `snapshot_bytes` of a running machine's memory and disks, and the way.

    Raises Unsupported for a container.
    """
    from instances import snapshots

    began_s = time.monotonic()
    size_bytes = snapshots.keep(instance, TAG, memory=True).memory_bytes
    kept_s = time.monotonic()
    way = snapshots.restore(instance, TAG)
    values = {
        "snapshot_s": kept_s - began_s,
        "restore_s": time.monotonic() - kept_s,
        "snapshot_bytes": float(size_bytes),
    }
    return values, way


def move(instance: Instance) -> dict[str, float]:
    """`move_s` until a second QEMU runs the machine's copy, `standstill_s` while neither ran."""
    from instances import cloning, runs

    began_s = time.monotonic()
    copy, standstill_s = cloning.clone(instance, f"{instance.name}-moved", live=True)
    try:
        return {"move_s": time.monotonic() - began_s, "standstill_s": standstill_s}
    finally:
        runs.remove(copy, force=True)


def resize(instance: Instance, memory_bytes: int) -> None:
    """Another memory limit while it runs; raises Unsupported where it was not born for that."""
    from instances import runs

    runs.update(instance, {"memory_bytes": memory_bytes})
