"""The stages of a Dockerfile: what stands between two FROMs, and the arguments before the first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from host.errors import NotFound
from images import variables
from images.config import host_architecture
from images.dockerfile import Instruction, broken

# Arguments that need no ARG line and stay out of the cache's keys (Dockerfile reference, "Predefined ARGs").
PREDEFINED = {
    name
    for word in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
    for name in (word, word.lower())
}


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage: the image or stage that it begins from, its own name, and its instructions."""

    index: int
    base: str
    name: str
    line: int
    instructions: tuple[Instruction, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """All stages in their order, and the values of the arguments before the first."""

    stages: tuple[StagePlan, ...]
    arguments: Mapping[str, str]

    def find(self, word: str, before: int | None = None) -> StagePlan | None:
        """The stage of that name or number, of those before a given one."""
        known = self.stages if before is None else self.stages[:before]
        for stage in reversed(known):
            if word.lower() == stage.name.lower() and stage.name:
                return stage
        return known[int(word)] if word.isdigit() and int(word) < len(known) else None

    def target(self, word: str) -> StagePlan:
        """The stage to build: the last one, or that of --target. NotFound for a name that no stage has."""
        if not word:
            return self.stages[-1]
        found = self.find(word)
        if found is None:
            names = ", ".join(stage.name or str(stage.index) for stage in self.stages)
            raise NotFound("no build stage", repr(word), hint=f"there are {names}")
        return found


def platform_arguments() -> dict[str, str]:
    """The arguments that tell the platform, which is the host's: we build for no other."""
    arch = host_architecture()
    pairs = {"PLATFORM": f"linux/{arch}", "OS": "linux", "ARCH": arch, "VARIANT": ""}
    return {f"{side}{key}": value for side in ("BUILD", "TARGET") for key, value in pairs.items()}


def split(instructions: list[Instruction], given: Mapping[str, str]) -> Plan:
    """The stages of a Dockerfile; `given` are those of --build-arg. BadData where FROM is missing or odd."""
    arguments = platform_arguments()
    stages: list[StagePlan] = []
    begun: list[Instruction] = []
    for one in instructions:
        if one.word == "FROM":
            begun = []
            stages.append(_stage(one, len(stages), arguments, begun))
        elif stages:
            begun.append(one)
            stages[-1] = _with(stages[-1], tuple(begun))
        elif one.word == "ARG":
            arguments.update(declared(one, given, arguments))
        else:
            raise broken(one.line, f"{one.word} before the first FROM", "only ARG may stand there")
    if not stages:
        raise broken(instructions[-1].line, "there is no FROM", "FROM scratch begins from nothing")
    return Plan(tuple(stages), arguments)


def declared(one: Instruction, given: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
    """What an ARG line defines; a name without a value anywhere defines nothing."""
    found: dict[str, str] = {}
    for word in variables.split(one.rest, one.escape):
        name, equals, default = word.partition("=")
        name = variables.expand(name, {**known, **found}, one.escape)
        if name in given:
            found[name] = given[name]
        elif equals:
            found[name] = variables.expand(default, {**known, **found}, one.escape)
        elif name in known:
            found[name] = known[name]
    return found


def _stage(
    one: Instruction, index: int, arguments: Mapping[str, str], _begun: list[Instruction]
) -> StagePlan:
    words = one.rest.split()
    if len(words) not in (1, 3) or (len(words) == 3 and words[1].upper() != "AS"):
        raise broken(one.line, f"FROM {one.rest}", "write FROM IMAGE [AS NAME]")
    platform = variables.expand(one.flag("platform") or "", arguments, one.escape)
    if platform and platform.split("/")[:2] != ["linux", host_architecture()]:
        raise broken(one.line, f"--platform={platform}: this host builds linux/{host_architecture()} only")
    base = variables.expand(words[0], arguments, one.escape)
    if not base:
        raise broken(
            one.line, f"FROM {words[0]}: the name is empty", "give the ARG a default before the FROM"
        )
    return StagePlan(index, base, words[2] if len(words) == 3 else "", one.line, ())


def _with(stage: StagePlan, instructions: tuple[Instruction, ...]) -> StagePlan:
    return StagePlan(stage.index, stage.base, stage.name, stage.line, instructions)
