"""Results made by a formula: the shape of real ones, for tests of reports and claims."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HOST = {
    "id": "bench-host-1",
    "cpu_model": "Synthetic CPU @ 2.50GHz",
    "cores": 2,
    "memory_bytes": 8 << 30,
    "kernel": "6.1.0-18-amd64",
    "cgroup": "v1",
    "clocksource": "tsc",
    "virtualization": "kvm",
}
VERSIONS = {"vmm": "0.1.0", "qemu": "7.2.15", "docker": "20.10.24"}
MACHINES = ("vm", "vm-libvirt")
# Median seconds of a start in command mode, and what a machine adds to boot systemd.
TINY_S = {
    "process": 0.0012,
    "ct": 0.011,
    "bwrap": 0.009,
    "runc": 0.045,
    "docker": 0.42,
    "vm": 2.1,
    "vm-libvirt": 2.5,
}
DEBIAN_S = {target: value * 1.4 for target, value in TINY_S.items()}
BOOT_S = {"vm": 17.5, "vm-libvirt": 18.4}
# Where a machine's time goes, as shares of t0..t8; containers pass t1, t2, t6 and t8 only.
MACHINE_EDGES = {
    "t0": 0,
    "t1": 0.01,
    "t2": 0.02,
    "t3": 0.08,
    "t4": 0.2,
    "t5": 0.32,
    "t6": 0.9,
    "t7": 0.95,
    "t8": 1,
    "t9": 1.03,
}
CONTAINER_EDGES = {"t0": 0, "t1": 0.05, "t2": 0.4, "t6": 0.8, "t8": 1, "t9": 1.2}
PSS = {"process": 0.2, "ct": 0.4, "bwrap": 0.3, "runc": 2.1, "docker": 14.0, "vm": 146.0, "vm-libvirt": 151.0}


def sample(**changed: Any) -> dict[str, Any]:
    """One line of results.jsonl as a dict, every field there."""
    line: dict[str, Any] = {
        "schema_version": 2, "record": "sample", "campaign": "demo", "plan_hash": "sha256:0123abcd",
        "experiment": "start", "cell": "", "target": "ct", "image": "tiny", "mode": "command",
        "block": 0, "order": 0, "warmup": False, "status": "ok", "error": None, "hint": None,
        "exit_status": 0, "accelerator": None, "edges_ns": {}, "values": {},
        "began_unix_s": 1_790_000_000.0, "host": HOST, "versions": VERSIONS, "warnings": [],
    }  # fmt: skip
    line.update(changed)
    line["accelerator"] = changed.get("accelerator", "tcg" if line["target"] in MACHINES else None)
    line["cell"] = line["cell"] or f"{line['mode']}/{line['image']}/{line['target']}"
    return line


def started(rng: random.Random, target: str, median_s: float, **changed: Any) -> dict[str, Any]:
    """A start with all its edges."""
    total_ns = median_s * 1e9 * rng.lognormvariate(0, 0.08)
    shares = MACHINE_EDGES if target in MACHINES else CONTAINER_EDGES
    edges = {edge: int(share * total_ns) for edge, share in shares.items()}
    return sample(target=target, edges_ns=edges, **changed)


def starts(
    rng: random.Random, mode: str, image: str, medians_s: dict[str, float], runs: int
) -> Iterator[dict[str, Any]]:
    """Interleaved blocks of starts, the first one a warm-up."""
    for block in range(-1, runs):
        targets = list(medians_s)
        rng.shuffle(targets)
        for place, target in enumerate(targets):
            order = (block + 1) * len(targets) + place
            fields = {
                "mode": mode,
                "image": image,
                "block": max(block, 0),
                "order": order,
                "warmup": block < 0,
            }
            yield started(rng, target, medians_s[target], began_unix_s=1_790_000_000.0 + order * 3, **fields)


def memory(rng: random.Random, image: str, runs: int) -> Iterator[dict[str, Any]]:
    """Idle instances: the vector of each, and the slope points of tiny."""
    for block in range(runs):
        for order, (target, mebibytes) in enumerate(PSS.items()):
            pss = mebibytes * (1 << 20) * rng.lognormvariate(0, 0.02)
            values = {"pss_bytes": pss, "uss_bytes": pss * 0.9, "rss_bytes": pss * 1.25, "host_processes": 1}
            if target in MACHINES:
                values |= {"guest_used_bytes": pss * 0.25, "configured_bytes": 256 << 20}
            if target == "docker":
                values |= {"cgroup_anon_bytes": pss * 0.1, "cgroup_file_bytes": pss * 0.2}
            yield sample(mode="memory", image=image, target=target, block=block, order=order, values=values)
    for target in ("ct", "vm"):
        for count in (1, 2, 4, 8):
            for block in range(3):
                drop = count * PSS[target] * (1 << 20) * 0.92 + rng.gauss(0, 300_000) + 2_000_000
                values = {"instances": count, "mem_available_drop_bytes": drop,
                          "start_of_this_s": TINY_S[target] * rng.lognormvariate(0, 0.1),
                          "all_pss_anon_bytes": drop * 0.6, "all_pss_shmem_bytes": drop * 0.1,
                          "all_pss_file_bytes": drop * 0.2}  # fmt: skip
                where = {"mode": "memory", "image": "tiny", "target": target, "experiment": "memory-slope"}
                yield sample(**where, block=block, order=count, values=values)


def cold(rng: random.Random, runs: int) -> Iterator[dict[str, Any]]:
    """Starts of tiny from an empty page cache."""
    for block in range(runs):
        for order, target in enumerate(("ct", "vm")):
            changed = {"experiment": "cold-start", "mode": "command", "image": "tiny", "order": order}
            values = {"warm_start_s": TINY_S[target] * rng.lognormvariate(0, 0.08)}
            yield started(rng, target, 0.2 + 1.5 * TINY_S[target], block=block, values=values, **changed)


def work(rng: random.Random, runs: int) -> Iterator[dict[str, Any]]:
    """The same work on three targets."""
    for block in range(runs):
        for target, factor in (("process", 1.0), ("ct", 1.02), ("vm", 11.0)):
            values = {"sha256_s": factor * rng.lognormvariate(0, 0.02)}
            yield sample(mode="workload", experiment="e11-cpu", target=target, block=block, values=values)


def disk(rng: random.Random, image: str) -> Iterator[dict[str, Any]]:
    """Disk of one more instance."""
    for target, (apparent, allocated, unique) in {
        "process": (0, 0, 0), "ct": (16384, 24576, 24576), "docker": (40960, 57344, 53248),
        "vm": (2 << 30, 200704, 200704), "vm-libvirt": (2 << 30, 212992, 200704),
    }.items():  # fmt: skip
        for block in range(3):
            values = {"apparent_bytes": apparent, "allocated_bytes": allocated, "unique_bytes": unique}
            yield sample(mode="disk", image=image, target=target, block=block, values=values)


def demo(runs: int = 10, seed: int = 7) -> list[dict[str, Any]]:
    """What `make demo` leaves, made up: two images, all modes, one skipped peer, two failures."""
    rng = random.Random(seed)
    lines = [
        *starts(rng, "command", "tiny", TINY_S, runs),
        *starts(rng, "command", "debian", DEBIAN_S, max(runs // 2, 1)),
    ]
    lines += starts(rng, "boot", "debian", BOOT_S, max(runs // 2, 1))
    lines += [*memory(rng, "tiny", 3), *memory(rng, "debian", 3), *disk(rng, "tiny"), *disk(rng, "debian")]
    lines += [*cold(rng, 6), *work(rng, 6)]
    lines.append(
        sample(
            target="podman", status="skipped", error="podman is not installed", hint="apt-get install podman"
        )
    )
    lines.append(
        sample(
            target="vm",
            status="timeout",
            block=runs,
            order=9999,
            error="no marker after 60 s",
            exit_status=None,
        )
    )
    lines.append(
        sample(
            target="docker",
            status="failed",
            block=runs,
            order=9998,
            error="docker run ended with 125",
            exit_status=125,
        )
    )
    return lines


def write(folder: Path, lines: list[dict[str, Any]]) -> Path:
    """The lines as a results file in a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "results.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
