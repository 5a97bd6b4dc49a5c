"""The answer first: the comparisons of the opening picture, and five sentences with their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.core.sample import Sample
from reports import units
from reports.figures.cost import Cost
from reports.figures.slope import slopes
from reports.gathered import Group, groups
from reports.phases import phases
from reports.summaries import Reading, Summary, medians_by_target, named, start_time, summaries
from reports.tables import span


@dataclass(frozen=True)
class Answer:
    """What the page opens with."""

    costs: tuple[Cost, ...]
    sentences: tuple[str, ...]


def answer(samples: Sequence[Sample]) -> Answer:
    """The comparisons VM over container that the samples allow, and what they say."""
    commands, boots = groups(samples, ["command"]), groups(samples, ["boot"])
    memories, disks = groups(samples, ["memory"]), groups(samples, ["disk"])
    costs = [_cost(group, "Start", "t0 → t8", start_time, units.seconds) for group in commands]
    costs += [_cost(group, "Memory", "idle, PSS", named("pss_bytes"), units.size) for group in memories]
    costs += [_cost(group, "Disk", "one more, unique", named("unique_bytes"), units.size) for group in disks]
    told = [
        *_start_sentences(commands),
        *_phase_sentence(commands),
        *_boot_sentence(boots),
        *_one_more_sentence(memories, disks),
    ]
    return Answer(tuple(cost for cost in costs if cost), tuple(told))


def _cost(group: Group, what: str, interval: str, read: Reading, words: units.Words) -> Cost | None:
    found = medians_by_target(summaries(group, read, "ct"))
    if "ct" not in found or "vm" not in found or found["vm"].ratio is None:
        return None
    machine, container = found["vm"], found["ct"]
    pairs = min(machine.n, container.n)
    return Cost(
        f"{what}, {group.subject}",
        interval,
        machine.series.label,
        machine.series.css,
        words(container.median.estimate),
        words(machine.median.estimate),
        found["vm"].ratio,
        pairs,
        machine.series.emulated,
    )


def _start_sentences(commands: Sequence[Group]) -> list[str]:
    """One sentence over all images: the second only says whether the first was luck."""
    told, emulated = [], ""
    for group in commands:
        found = medians_by_target(summaries(group, start_time, "ct"))
        if "ct" in found and "vm" in found and (ratio := found["vm"].ratio):
            emulated = _emulated(found["vm"])
            told.append(
                f"{_time(found['vm'])} in a virtual machine of {group.subject} and "
                f"{_time(found['ct'])} in its container, {units.times(ratio.estimate)} "
                f"({span(ratio, units.times)})"
            )
    words = f"From request to first reply it took {'; '.join(told)}{emulated}."
    return [words, *_process_sentence(commands)] if told else _process_sentence(commands)


def _process_sentence(commands: Sequence[Group]) -> list[str]:
    for group in commands:
        found = medians_by_target(summaries(group, start_time, "process"))
        if "ct" in found and "process" in found:
            extra = found["ct"].median.estimate - found["process"].median.estimate
            return [
                "A container is not just a process: namespaces, mounts and limits made the same "
                f"{group.subject} "
                f"command take {_time(found['ct'])} instead of {_time(found['process'])}, "
                f"{units.seconds(abs(extra))} {'more' if extra >= 0 else 'less'}."
            ]
    return []


def _phase_sentence(commands: Sequence[Group]) -> list[str]:
    for group in commands:
        series = group.find("vm")
        found = [phase for phase in phases(series, True) if phase.last != "t9"] if series else []
        if series and found:
            longest = max(found, key=lambda phase: phase.median_s)
            share = longest.median_s / found[-1].end_s
            return [
                f"Most of the machine's time went to “{longest.words}” ({longest.interval}): "
                f"{units.seconds(longest.median_s)}, {share:.0%} of a {group.subject} start; a container has "
                "no such phase."
                if longest.last in ("t4", "t5", "t6")
                else f"The machine's longest phase was “{longest.words}” ({longest.interval}): "
                f"{units.seconds(longest.median_s)}, {share:.0%} of a {group.subject} start."
            ]
    return []


def _boot_sentence(boots: Sequence[Group]) -> list[str]:
    for group in boots:
        found = medians_by_target(summaries(group, start_time, "vm"))
        if "vm" in found:
            return [
                f"A full boot of {group.subject}, systemd up to sshd's first byte, took {_time(found['vm'])}"
                f"{_emulated(found['vm'])}."
            ]
    return []


def _one_more_sentence(memories: Sequence[Group], disks: Sequence[Group]) -> list[str]:
    """What one more instance takes, of memory by the slope (else PSS) and of disk."""
    for group in memories:
        held = _memory_words(group)
        if not held:
            continue
        disk = next((one for one in disks if one.image == group.image), None)
        found = medians_by_target(summaries(disk, named("unique_bytes"), "ct")) if disk else {}
        vm, ct = (_disk_words(found, target) for target in ("vm", "ct"))
        return [
            f"One more idle {group.subject} machine took {held[0]}{vm}; "
            f"one more container took {held[1]}{ct}."
        ]
    return []


def _memory_words(group: Group) -> tuple[str, str] | None:
    lines = {line.target: line for line in slopes(group)}
    if {"vm", "ct"} <= lines.keys() and all(lines[one].bytes_per_instance.low > 0 for one in ("vm", "ct")):
        vm, ct = (units.size(lines[target].bytes_per_instance.estimate) for target in ("vm", "ct"))
        return f"{vm} of the host's memory", ct
    found = medians_by_target(summaries(group, named("pss_bytes"), "ct"))
    if "vm" not in found or "ct" not in found:
        return None
    vm, ct = (units.size(found[target].median.estimate) for target in ("vm", "ct"))
    return f"{vm} of memory (PSS)", ct


def _disk_words(found: dict[str, Summary], target: str) -> str:
    if not {"vm", "ct"} <= found.keys():
        return ""
    size = units.size(found[target].median.estimate)
    return f" and {size} of disk" if target == "vm" else f" and {size}"


def _time(found: Summary) -> str:
    return units.seconds(found.median.estimate)


def _emulated(found: Summary) -> str:
    return " under TCG, QEMU's translator, not under hardware virtualisation" if found.series.emulated else ""
