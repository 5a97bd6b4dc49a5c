"""A Jupyter notebook that recomputes the page's figures from the raw samples, with numpy and matplotlib
alone."""

from __future__ import annotations

import json

INTRO = """# From raw samples to every figure

This notebook reads `results.jsonl` beside it and computes each number again, without vmm.
Change a definition (the end edge, the statistic, what counts as a failure) and see what follows."""

READ = """import json
import random
import statistics
from collections import defaultdict
from pathlib import Path

import matplotlib.pyplot as plt

END = "t8"  # the edge where a start ends: try t2 to t9
samples = [json.loads(line) for line in Path("results.jsonl").read_text().splitlines() if line.strip()]
samples = [one for one in samples if one.get("record", "sample") == "sample"]
good = [one for one in samples if one["status"] == "ok" and not one["warmup"]]
failed = [one for one in samples if one["status"] in ("failed", "timeout")]

def subject(one):
    '''What is compared: the image, and the parameters or the cold cache that it was started under.'''
    if one["experiment"] == "cold-start":
        return one["image"] + " (cold cache)"
    rest = one["cell"].partition(f"/{one['mode']}/{one['image']},")[2].rpartition("/")[0]
    told = ", ".join(word for word in rest.split(",") if word and not word.startswith("instances="))
    return f"{one['image']} ({told})" if told else one["image"]

print(len(samples), "samples,", len(good), "good,", len(failed), "failed")"""

MEDIANS = """def seconds(one, first="t0", last=END):
    edges = one["edges_ns"]
    return (edges[last] - edges[first]) / 1e9 if first in edges and last in edges else None

def series(mode, image):
    found = defaultdict(dict)
    for one in good:
        value = seconds(one)
        if one["mode"] == mode and subject(one) == image and value:
            found[one["target"]][one["block"]] = value
    return dict(found)

def interval(values, statistic=statistics.median, resamples=2000, seed=1):
    '''A percentile bootstrap: simpler than the page's BCa, and close to it.'''
    rng = random.Random(seed)
    drawn = sorted(statistic(rng.choices(values, k=len(values))) for _ in range(resamples))
    return statistic(values), drawn[int(0.025 * resamples)], drawn[int(0.975 * resamples)]

starts = sorted({(one["mode"], subject(one)) for one in good if one["mode"] in ("command", "boot")})
for mode, image in starts:
    print(f"{image}, {mode} mode, t0 to {END}")
    for target, blocks in sorted(series(mode, image).items()):
        middle, low, high = interval(list(blocks.values()))
        print(f"  {target:<12} n={len(blocks):<4} {middle:.6f} s  ({low:.6f} to {high:.6f})")"""

RATIOS = """for mode, image in starts:
    found = series(mode, image)
    if "ct" not in found:
        continue
    for target, blocks in sorted(found.items()):
        ratios = [blocks[block] / found["ct"][block] for block in blocks.keys() & found["ct"].keys()]
        if target != "ct" and len(ratios) > 2:
            middle, low, high = interval(ratios)
            print(f"{image} {target}/ct: {middle:.3g} ({low:.3g} to {high:.3g}), {len(ratios)} pairs")"""

ECDF = """for mode, image in starts:
    plt.figure(figsize=(9, 4))
    for target, blocks in sorted(series(mode, image).items()):
        values = sorted(blocks.values())
        lost = [o for o in failed if (o["mode"], subject(o), o["target"]) == (mode, image, target)]
        tries = len(values) + len(lost)
        plt.step(values, [(i + 1) / tries for i in range(len(values))], where="post", label=target)
    plt.xscale("log")
    plt.xlabel(f"seconds from request, t0 to {END} (log scale)")
    plt.ylabel("share of tries")
    plt.title(f"{image}, {mode} mode")
    plt.legend()
    plt.show()"""

PHASES = """for mode, image in starts:
    plt.figure(figsize=(9, 3))
    names = sorted(series(mode, image))
    for place, target in enumerate(names):
        runs = [o["edges_ns"] for o in good if (o["mode"], subject(o), o["target"]) == (mode, image, target)]
        edges = [e for e in (f"t{i}" for i in range(10)) if all(e in run for run in runs)]
        at = [statistics.median(run[e] for run in runs) / 1e9 for e in edges]
        for left, right, name in zip(at, at[1:], edges[1:]):
            plt.barh(place, right - left, left=left, label=name if place == 0 else None)
    plt.yticks(range(len(names)), names)
    plt.xlabel("seconds from request")
    plt.title(f"phases: {image}, {mode} mode")
    plt.show()"""

SIZES = """for mode in ("memory", "disk"):
    values = defaultdict(list)
    for one in good:
        if one["mode"] == mode:
            for name, value in one["values"].items():
                if name.endswith("_bytes"):
                    values[subject(one), one["target"], name].append(value)
    for (image, target, name), found in sorted(values.items()):
        mebibytes = statistics.median(found) / 2**20
        print(f"{mode:<7} {image:<8} {target:<12} {name:<26} {mebibytes:12.3f} MiB  n={len(found)}")"""

SLOPE = """plt.figure(figsize=(8, 4))
points = defaultdict(list)
for one in good:
    if "instances" in one["values"] and "mem_available_drop_bytes" in one["values"]:
        points[one["target"]].append((one["values"]["instances"], one["values"]["mem_available_drop_bytes"]))
for target, found in sorted(points.items()):
    if len({n for n, _ in found}) > 1:
        slope, start = statistics.linear_regression(*zip(*found))
        print(f"{target}: {slope / 2**20:.3f} MiB an instance")
        plt.plot(*zip(*sorted(found)), "o", label=target)
plt.xlabel("idle instances")
plt.ylabel("MemAvailable taken, bytes")
plt.show()"""

KTH = """plt.figure(figsize=(8, 4))
starts_of = defaultdict(lambda: defaultdict(list))
for one in good:
    if "instances" in one["values"] and one["values"].get("start_of_this_s", 0) > 0:
        label = f"{one['target']}, {subject(one)}"
        starts_of[label][one["values"]["instances"]].append(one["values"]["start_of_this_s"])
for label, found in sorted(starts_of.items()):
    line = [(count, statistics.median(each)) for count, each in sorted(found.items())]
    print(label, ", ".join(f"k={count:.0f}: {took:.4f} s" for count, took in line))
    plt.plot(*zip(*line), "o-", label=label)
plt.yscale("log")
plt.xlabel("k, instances running with it")
plt.ylabel("seconds to start the k-th (log scale)")
plt.legend()
plt.show()"""

STACK = """kinds = ("all_pss_anon_bytes", "all_pss_shmem_bytes", "all_pss_file_bytes")
stacks = defaultdict(lambda: defaultdict(list))
for one in good:
    if {"instances", "mem_available_drop_bytes", *kinds} <= one["values"].keys():
        stacks[one["target"], subject(one)][one["values"]["instances"]].append(one["values"])
for (target, image), found in sorted(stacks.items()):
    counts = sorted(found)
    rows = [[statistics.median(v[kind] for v in found[n]) for n in counts] for kind in kinds]
    drops = [statistics.median(v["mem_available_drop_bytes"] for v in found[n]) for n in counts]
    rows.append([max(drop - sum(held), 0) for drop, *held in zip(drops, *rows)])
    plt.figure(figsize=(6, 3))
    plt.stackplot(counts, rows, labels=("anonymous", "shared memory", "mapped files", "the rest"))
    plt.title(f"{target}, {image}")
    plt.xlabel("idle instances, N")
    plt.ylabel("bytes")
    plt.legend(loc="upper left")
    plt.show()"""

WORK = """works = defaultdict(lambda: defaultdict(dict))
for one in good:
    rates = any(name.endswith("_per_second") for name in one["values"])
    for name, value in one["values"].items():
        # a generator works for a fixed time: its rate is its answer, and turned over to be read like a time
        cost = 1 / value if name.endswith("_per_second") and value > 0 else value
        told = name.endswith(("_s", "_per_second")) and not (rates and name == "work_s")
        if one["mode"] == "workload" and told and value > 0:
            works[one["cell"].rpartition("/")[0], name][one["target"]][one["block"]] = cost
for (cell, name), found in sorted(works.items()):
    for target, blocks in sorted(found.items()):
        base = found.get("process", {})
        ratios = [cost / base[block] for block, cost in blocks.items() if block in base]
        if target != "process" and ratios:
            print(f"{cell} {name}: {target} costs {statistics.median(ratios):.3g} times the process")"""

ORDER = """plt.figure(figsize=(9, 3))
middle = {(m, i, t): statistics.median(b.values()) for m, i in starts for t, b in series(m, i).items()}
for (mode, image, target), of in middle.items():
    runs = [o for o in good if (o["mode"], subject(o), o["target"]) == (mode, image, target) and seconds(o)]
    plt.plot([o["began_unix_s"] for o in runs], [seconds(o) / of for o in runs], ".", label=target)
plt.yscale("log")
plt.xlabel("unix seconds")
plt.ylabel("time / median of its target (log scale)")
plt.show()"""

CHAPTERS = (
    ("## Read the samples", READ),
    ("## Medians with bootstrap intervals", MEDIANS),
    ("## Ratios within blocks", RATIOS),
    ("## Distributions", ECDF),
    ("## Phases", PHASES),
    ("## Memory and disk", SIZES),
    ("## What one more instance takes", SLOPE),
    ("## Memory by kind over N", STACK),
    ("## The start of the k-th instance", KTH),
    ("## Work, as a multiple of the plain process's time", WORK),
    ("## Run order", ORDER),
)


def notebook() -> str:
    """The notebook as JSON, format 4.5 (nbformat); it expects results.jsonl beside it."""
    cells = [_markdown("intro", INTRO)]
    for number, (head, code) in enumerate(CHAPTERS):
        cells += [_markdown(f"head-{number}", head), _code(f"code-{number}", code)]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    made = {
        "cells": cells,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


def _markdown(name: str, words: str) -> dict[str, object]:
    return {"cell_type": "markdown", "id": name, "metadata": {}, "source": words.splitlines(keepends=True)}


def _code(name: str, words: str) -> dict[str, object]:
    source = words.splitlines(keepends=True)
    return {
        "cell_type": "code",
        "id": name,
        "metadata": {},
        "source": source,
        "outputs": [],
        "execution_count": None,
    }
