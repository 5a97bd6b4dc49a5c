"""Exercises at three levels, with data sets that are flawed on purpose; the answers are a file of their
own."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.core.sample import Sample

HOST = {
    "id": "made-up",
    "cpu_model": "made-up processor",
    "cores": 2,
    "memory_bytes": 8 << 30,
    "kernel": "6.1",
}
BEGAN_UNIX_S = 1_790_000_000.0
RUNS = 30
Flaw = Callable[[random.Random], Iterator[Sample]]


@dataclass(frozen=True)
class Exercise:
    """One data set with a flaw: the question, and the answer with how to show it."""

    name: str
    level: str
    question: str
    answer: str
    made_by: Flaw


def run(target: str, block: int, order: int, time_s: float, **changed: object) -> Sample:
    """One start of a made-up target; the line says in its campaign's name that it is made up."""
    fields: dict[str, object] = {
        "campaign": "made-up-exercise",
        "plan_hash": "",
        "experiment": "start",
        "cell": f"start/command/tiny/{target}",
        "target": target,
        "image": "tiny",
        "mode": "command",
        "block": block,
        "order": order,
        "warmup": False,
        "status": "ok",
        "edges_ns": {"t0": 0, "t2": int(time_s * 2e8), "t6": int(time_s * 7e8), "t8": int(time_s * 1e9)},
        "began_unix_s": BEGAN_UNIX_S + order * 2.0,
        "host": HOST,
    }
    return Sample(**{**fields, **changed})  # type: ignore[arg-type]


def _drift(rng: random.Random) -> Iterator[Sample]:
    """Two equal targets, one after the other, on a host that grows slower."""
    for order in range(2 * RUNS):
        target = "ct" if order < RUNS else "bwrap"
        slower = 1 + 0.6 * order / (2 * RUNS)
        yield run(target, order % RUNS, order, 0.010 * slower * rng.lognormvariate(0, 0.05))


def _cache(rng: random.Random) -> Iterator[Sample]:
    """The first target pays for reading the image; the second finds it in the page cache."""
    order = 0
    for block in range(RUNS):
        for target in ("docker", "ct"):
            cold = 0.25 if target == "docker" and block % 3 == 0 else 0.0
            yield run(target, block, order, 0.040 * rng.lognormvariate(0, 0.06) + cold)
            order += 1


def _co_tenant(rng: random.Random) -> Iterator[Sample]:
    """A neighbour wakes every minute and hits whoever runs then: mostly the same one, since order never
    changes."""
    order = 0
    for block in range(RUNS):
        for target in ("ct", "runc", "bwrap"):
            hit = 2.4 if order % 3 == 1 and block % 4 != 3 else 1.0
            yield run(target, block, order, 0.012 * hit * rng.lognormvariate(0, 0.05))
            order += 1


def _survivors(rng: random.Random) -> Iterator[Sample]:
    """The slow starts of one target ran into the deadline and are missing from its median."""
    order = 0
    for block in range(RUNS):
        for target in ("ct", "docker"):
            time_s = (
                0.05 * rng.lognormvariate(0, 0.1) if target == "ct" else 0.045 * rng.lognormvariate(0, 1.1)
            )
            late = time_s > 0.06 and target == "docker"
            changed = {"status": "timeout", "error": "no reply after 60 ms", "edges_ns": {}} if late else {}
            yield run(target, block, order, time_s, **changed)
            order += 1


EXERCISES = (
    Exercise(
        "survivors",
        "read a figure",
        "docker's median is below the container's. Would you deploy docker? Look at where its curve ends.",
        "Its curve ends far below 100 %: every start above 60 ms was cut off by the deadline. The median of "
        "those "
        "that survived says nothing about a user who waits. Count failures as at least the deadline: "
        "docker's "
        "median over all tries is then worse. Show it with the number of failed runs in the table.",
        _survivors,
    ),
    Exercise(
        "drift",
        "change a parameter and predict",
        "bwrap looks slower than our container, with intervals that do not touch. Predict the ratio if both "
        "had been "
        "run in turns. Which figure tells you, and how would you order the runs?",
        "About 1: both targets draw from the same distribution. One ran in the first half, the other in the "
        "second, "
        "and the host grew 60 % slower meanwhile: the run-order plot rises steadily. Interleave in random "
        "order "
        "within blocks, and compare within blocks.",
        _drift,
    ),
    Exercise(
        "cache",
        "design a control",
        "docker is now and then six times slower than our container. Is it docker? Design the one "
        "additional cell "
        "that decides.",
        "Every third block docker runs first after the page cache was dropped, and the container right "
        "after it "
        "finds the image cached. The control: drop the cache before both, or before neither, as two cells, "
        "cold and "
        "warm. The two humps of docker's curve were the hint: one population would have one.",
        _cache,
    ),
    Exercise(
        "co-tenant",
        "design a control",
        "runc is 2.4 times slower than the others, but in every fourth block it is not. What runs beside "
        "it, and "
        "what was wrong with the order?",
        "The order in each block was always the same, so a neighbour with a steady rhythm met the same "
        "target. In "
        "random order the disturbance would fall on all three alike and widen their spread instead of "
        "moving one "
        "median. Record the host's other load with each sample, and throw no sample away.",
        _co_tenant,
    ),
)


def write(out: Path) -> list[Path]:
    """One folder a data set, questions in exercises.md, answers in answers.md; the same bytes each time."""
    paths = []
    for exercise in EXERCISES:
        folder = out / exercise.name
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "results.jsonl"
        path.write_text("".join(f"{one.to_json()}\n" for one in samples(exercise)), encoding="utf-8")
        paths.append(path)
    for name, text in (("exercises.md", _questions()), ("answers.md", _answers())):
        (out / name).write_text(text, encoding="utf-8")
        paths.append(out / name)
    return paths


def samples(exercise: Exercise) -> list[Sample]:
    """The exercise's data, from a fixed seed."""
    return list(exercise.made_by(random.Random(exercise.name)))


def _questions() -> str:
    parts = [
        "# Exercises with flawed data",
        "Each folder holds a results file that looks fine at first sight and is not. The data are made up; "
        "the flaws "
        "are from real papers and blogs. Build its page with `vmm report build FOLDER`, then answer.",
    ]
    parts += [f"## {one.name} ({one.level})\n\n{one.question}" for one in EXERCISES]
    return "\n\n".join(parts) + "\n"


def _answers() -> str:
    return "\n\n".join(["# Answers", *(f"## {one.name}\n\n{one.answer}" for one in EXERCISES)]) + "\n"
