"""The field's own load generators, in the image `loads`: shell lines, and what their reports say.

Rates are the generator's, by the clock inside. `inside_clock_ratio` is how far that clock came during the
work, over the host's: 1 where the two agree.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from bench.core import workload
from bench.core.target import Cell, Parts, Target

IMAGE = "loads"
Read = Callable[[str], Mapping[str, float]]


def measured(target: Target, cell: Cell, command: str, read: Read) -> Parts:
    """Run the generator in a fresh instance; `read` takes the values out of what it said."""
    body = f"read up rest </proc/uptime; echo up_s=$up\n{{ {command}; }} 2>&1 || exit 9\n"
    body += "read up rest </proc/uptime; echo down_s=$up"
    parts = workload.script(target, cell, body)
    if parts.status != "ok":
        return replace(parts, error=f"{parts.error}; it said {_ends(parts.output)!r}")
    try:
        values = {**parts.values, **read(parts.output)}
    except (AttributeError, KeyError, IndexError, ValueError) as error:
        words = f"cannot read the generator's report ({error!r}): {_ends(parts.output)!r}"
        return replace(parts, status="failed", error=words)
    inside_s = values.pop("down_s") - values.pop("up_s")
    if values.get("work_s"):
        values["inside_clock_ratio"] = inside_s / values["work_s"]
    return replace(parts, values=values)


def _ends(said: str, each_characters: int = 200) -> str:
    """The beginning, where most programs name what they refuse, and the end."""
    if len(said) <= 2 * each_characters:
        return said
    return f"{said[:each_characters]} ... {said[-each_characters:]}"


def number(pattern: str, name: str) -> Read:
    """The number that a pattern finds, under a name."""

    def read(output: str) -> dict[str, float]:
        found = re.search(pattern, output)
        if found is None:
            raise ValueError(f"no {pattern}")
        return {name: float(found[1])}

    return read


def stress(stressor: str, name: str) -> Read:
    """Operations a second of stress-ng's stressor (--metrics-brief), in real time."""
    return number(rf"\b{stressor} +\d+ +[\d.]+ +[\d.]+ +[\d.]+ +([\d.]+)", name)


def cores_used(stressor: str) -> Read:
    """Processors that stress-ng's stressor had: user and system time over real time (--metrics-brief)."""

    def read(output: str) -> dict[str, float]:
        found = re.search(rf"\b{stressor} +\d+ +([\d.]+) +([\d.]+) +([\d.]+)", output)
        if found is None:
            raise ValueError(f"no {stressor}")
        return {"used_cores": (float(found[2]) + float(found[3])) / float(found[1])}

    return read


def fio(way: str) -> Read:
    """Bytes and operations a second, and the median latency of one, of fio's job (`read` or `write`).

    Where each write is flushed the latency is the flush's.
    """

    def read(output: str) -> dict[str, float]:
        job = document(output)["jobs"][0]
        told, flushed = job[way], job.get("sync", {}).get("lat_ns", {})
        times = flushed if flushed.get("N", 0) > 1 else told["clat_ns"]
        latency = times.get("percentile", {}).get("50.000000", times["mean"])
        return {
            "fio_bytes_per_second": float(told["bw_bytes"]),
            "fio_ops_per_second": float(told["iops"]),
            "fio_latency_s": float(latency) / 1e9,
        }

    return read


def document(output: str) -> dict[str, Any]:
    """The one JSON object in the output."""
    found: dict[str, Any] = json.loads(output[output.index("{") : output.rindex("}") + 1])
    return found


def iperf3_stream(output: str) -> dict[str, float]:
    """Bits a second that the receiver had."""
    return {"received_bits_per_second": float(document(output)["end"]["sum_received"]["bits_per_second"])}


def iperf3_flood(output: str) -> dict[str, float]:
    """Datagrams a second that were sent, and the part that was lost."""
    told = document(output)["end"]["sum"]
    return {
        "sent_packets_per_second": float(told["packets"]) / float(told["seconds"]),
        "lost_ratio": float(told["lost_packets"]) / max(float(told["packets"]), 1.0),
    }


def round_trip(output: str) -> dict[str, float]:
    """Seconds of a round trip: sockperf tells half of it, in microseconds."""
    return {"round_trip_s": 2 * _microseconds(output, r"Latency is ([\d.]+) usec")}


def wake_ups(output: str) -> dict[str, float]:
    """Half a round trip of sockperf, median and 99th percentile: each is one process that has to wake up."""
    return {
        "wake_median_s": _microseconds(output, r"percentile 50\.000 = +([\d.]+)"),
        "wake_p99_s": _microseconds(output, r"percentile 99\.000 = +([\d.]+)"),
        "wake_worst_s": _microseconds(output, r"<MAX> observation = +([\d.]+)"),
    }


def _microseconds(output: str, pattern: str) -> float:
    found = re.search(pattern, output)
    if found is None:
        raise ValueError(f"no {pattern}")
    return float(found[1]) / 1e6
