"""Names and ids of instances: the grammar, names made up for people, short ids."""

from __future__ import annotations

import os
from collections.abc import Container

from host.errors import Usage

# A name is a folder, a cgroup, a host name inside and an interface's alias: the smallest of their grammars.
_SIGNS = frozenset("_.-")
_MOST_CHARACTERS = 63
SHORT_ID = 12

_LEFT = (
    "able amber bold brave brisk bright calm clear clever crisp deft eager early exact fair fast fine "
    "firm fleet fresh gentle glad grand happy hardy keen kind lively lucid mellow merry mild neat nimble "
    "noble plain prime proud quick quiet ready sharp shy silent sleek smart snug solid spry steady still "
    "sunny swift tidy true vivid warm wary wise witty young zesty"
)
_RIGHT = (
    "ada babbage backus bartik boole cerf church codd conway corbato curry dahl dijkstra eckert engelbart "
    "floyd gray hamilton hamming hoare holberton hopper iverson johnson kahn karp kay kernighan kilburn "
    "kleene knuth lamport lamarr liskov lovelace mauchly mccarthy mcilroy milner minsky naur neumann "
    "newell nygaard papert perlis pnueli popek postel rabin ritchie saltzer shannon simon stallings "
    "strachey tarjan thompson torvalds turing wilkes wilkinson wirth yao zuse"
)


def check(name: str) -> str:
    """The name itself; raises Usage when it cannot be one."""
    if not _is_name(name):
        raise Usage(
            "cannot use the name",
            repr(name),
            "a name is 1 to 63 of a-z A-Z 0-9 . _ - and starts with a letter or digit",
            "choose another name, for example web-1",
        )
    return name


def _is_name(name: str) -> bool:
    """[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}, without loading `re`."""
    letters = [one for one in name if one not in _SIGNS]
    return (
        name.isascii()
        and 0 < len(name) <= _MOST_CHARACTERS
        and name[0] not in _SIGNS
        and "".join(letters).isalnum()
    )


def new_id() -> str:
    """A new id: 64 random hexadecimal digits, as docker's."""
    return os.urandom(32).hex()


def uuid_of(identity: str) -> str:
    """The UUID that firmware and libvirt know a machine by: its id in the form of a random one (RFC 4122)."""
    return f"{identity[:8]}-{identity[8:12]}-4{identity[13:16]}-8{identity[17:20]}-{identity[20:32]}"


def short(identity: str) -> str:
    """The first digits of an id, as lists show it."""
    return identity[:SHORT_ID]


def made_up(identity: str, taken: Container[str]) -> str:
    """A name of two words drawn from the id; a number is added when it is taken."""
    seed, left, right = int(identity[:8], 16), _LEFT.split(), _RIGHT.split()
    name = f"{left[seed % len(left)]}_{right[seed // len(left) % len(right)]}"
    if name not in taken:
        return name
    return f"{name}_{identity[8:12]}"
