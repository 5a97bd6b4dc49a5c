"""Labs: several instances of both kinds from one file, in the order of what they need.

    name: shop                    # else the folder's name
    networks: [back]
    volumes: [data]
    instances:
      db:  {kind: vm, image: tiny, command: [sh, -c, "..."], memory: 128M, network: back}
      web: {image: tiny, command: httpd -f, publish: "8080:80", network: back, needs: {db: running}}

The keys of an instance are the long flags of `vmm run`; `needs` names what must be up before it, and
`from: TEMPLATE` instead of an image makes it a clone.
An instance is called LAB-NAME and answers to NAME on its networks.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shlex
from pathlib import Path
from typing import Any, NamedTuple

from host.errors import BadData, Usage
from instances import registry, runs

LAB, SPEC = "vmm.lab", "vmm.lab.spec"
_KEYS = {"name", "networks", "volumes", "instances"}
_SWITCHES = {"init", "privileged", "read-only", "tpm", "cloneable", "autostart", "interactive", "tty"}

_ELSE = "-f FILE names another one; instances without a lab are listed by vmm ls"


class Member(NamedTuple):
    """One instance of a lab: its words for `vmm run`, and what must be in which state before it starts."""

    name: str
    words: tuple[str, ...]
    needs: dict[str, str]


class Lab(NamedTuple):
    """A lab as its file says, members in the order of their starts."""

    name: str
    members: tuple[Member, ...]
    networks: tuple[str, ...]
    volumes: tuple[str, ...]


class Step(NamedTuple):
    """One thing that `up` would do: make, replace, start, keep or remove, and why."""

    action: str
    instance: str
    reason: str


def read(path: Path) -> Lab:
    """The lab in a file; raises Usage with the place of what is wrong."""
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Usage("cannot read the lab", str(path), error.strerror or "", _ELSE) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadData("cannot read the lab", str(path), str(error)) from None
    return _lab(document, path)


def _lab(document: Any, path: Path) -> Lab:
    if not isinstance(document, dict) or not isinstance(document.get("instances"), dict):
        raise _bad(path, "it has no `instances:` with names below", "see `vmm up --help`")
    if unknown := set(document) - _KEYS:
        raise _bad(path, f"unknown key {sorted(unknown)[0]!r}", f"known are {', '.join(sorted(_KEYS))}")
    name = str(document.get("name") or path.absolute().parent.name)
    members = [_member(name, key, value, path) for key, value in document["instances"].items()]
    networks = tuple(f"{name}-{one}" for one in document.get("networks") or ())
    volumes = tuple(f"{name}-{one}" for one in document.get("volumes") or ())
    lab = Lab(name, _ordered(members, path), networks, volumes)
    return lab._replace(members=tuple(_scoped(lab, member) for member in lab.members))


def _bad(path: Path, why: str, hint: str = "") -> Usage:
    return Usage("cannot use the lab", str(path), why, hint)


def _member(lab: str, name: Any, fields: Any, path: Path) -> Member:
    if not isinstance(name, str) or not isinstance(fields, dict) or not {"image", "from"} & fields.keys():
        raise _bad(path, f"instance {name!r} has no image", "write NAME: {image: tiny, command: [...]}")
    if {"image", "from"} <= fields.keys():
        raise _bad(path, f"instance {name!r} has an image and `from`", "a template has its image already")
    kind = fields.get("kind", "vm" if "from" in fields else "ct")
    needs = fields.get("needs") or {}
    needs = {one: "running" for one in needs} if isinstance(needs, list) else dict(needs)
    words: list[str] = [f"--{kind}", "--name", f"{lab}-{name}", "--hostname", name]
    for key, value in fields.items():
        if key not in ("image", "command", "kind", "needs", "name", "hostname"):
            words += _flag(key, value)
    command = fields.get("command") or ()
    given = shlex.split(command) if isinstance(command, str) else [str(word) for word in command]
    image = () if "from" in fields else (str(fields["image"]),)
    return Member(name, (*words, *image, *given), needs)


def _flag(key: str, value: Any) -> list[str]:
    if key in _SWITCHES or isinstance(value, bool):
        return [f"--{key}"] if value else []
    if isinstance(value, dict):
        return [word for name, one in value.items() for word in (f"--{key}", f"{name}={one}")]
    values = value if isinstance(value, list) else [value]
    return [word for one in values for word in (f"--{key}", str(one))]


def _scoped(lab: Lab, member: Member) -> Member:
    """Networks and volumes of the lab's own carry its name, so that two labs never meet."""
    words = list(member.words)
    for number, word in enumerate(words[:-1]):
        following = words[number + 1]
        if word == "--network" and f"{lab.name}-{following}" in lab.networks:
            words[number + 1] = f"{lab.name}-{following}"
        volume = following.partition(":")[0]
        if word == "--volume" and f"{lab.name}-{volume}" in lab.volumes:
            words[number + 1] = f"{lab.name}-{following}"
    if "--network" in words and any(network in words for network in lab.networks):
        words[0:0] = ["--network-alias", member.name]
    return member._replace(words=tuple(words))


def _ordered(members: list[Member], path: Path) -> tuple[Member, ...]:
    """Members so that each comes after what it needs; raises Usage for a circle or a stranger."""
    by_name = {member.name: member for member in members}
    done: dict[str, Member] = {}

    def visit(member: Member, above: tuple[str, ...]) -> None:
        if member.name in above:
            circle = " -> ".join((*above[above.index(member.name) :], member.name))
            raise _bad(path, f"they need each other: {circle}")
        for need in member.needs:
            if need not in by_name:
                raise _bad(path, f"{member.name} needs {need!r}, which is not in the lab")
            visit(by_name[need], (*above, member.name))
        done.setdefault(member.name, member)

    for member in members:
        visit(member, ())
    return tuple(done.values())


def digest(member: Member) -> str:
    """What tells whether an instance still is what the file says."""
    return hashlib.sha256(json.dumps(member.words).encode()).hexdigest()[:16]


def own(lab: Lab) -> dict[str, runs.Row]:
    """The instances of the lab that are there, by their whole name."""
    return {row.instance.name: row for row in runs.listing() if row.instance.labels.get(LAB) == lab.name}


def plan(lab: Lab) -> list[Step]:
    """What `up` would do, in order: removals first, then members by their needs."""
    there = own(lab)
    wanted = {f"{lab.name}-{member.name}" for member in lab.members}
    steps = [Step("remove", name, "it is no longer in the file") for name in there if name not in wanted]
    return steps + [_step(lab, member, there.get(f"{lab.name}-{member.name}")) for member in lab.members]


def _step(lab: Lab, member: Member, row: runs.Row | None) -> Step:
    from instances import kinds

    name = f"{lab.name}-{member.name}"
    if row is None:
        taken = registry.folder_of(name).exists()
        return Step("make", name, "its name is taken by another instance" if taken else "it is not there")
    if row.instance.labels.get(SPEC) != digest(member):
        return Step("replace", name, "its words have changed")
    if row.state not in kinds.RUNNING:
        return Step("start", name, f"it is {row.state}")
    return Step("keep", name, f"it is {row.state}")


def make_networks(lab: Lab) -> None:
    """The lab's own networks, made where they are missing."""
    from host import paths
    from host.errors import NotFound
    from host.linux.net import networks

    for name in lab.networks:
        try:
            networks.load(paths.home(), name)
        except NotFound:
            networks.create(paths.home(), name)


def remove_networks(lab: Lab) -> None:
    """Remove the lab's own networks; one that somebody else has joined stays."""
    from host import paths
    from host.errors import Failure
    from host.linux.net import networks

    for name in lab.networks:
        with contextlib.suppress(Failure):
            networks.remove(paths.home(), name)
