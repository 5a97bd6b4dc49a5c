"""Device rules on cgroup v2: v1's `devices.allow` and `devices.deny` as eBPF (cgroup-v2.rst, Device).

A rule is (allow, "c 1:3 rwm") in the words of v1; the last one that matches decides, none at all allows.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from typing import NamedTuple

from host.errors import BadData, Failure
from host.linux import syscalls

# linux/bpf.h, linux/bpf_common.h
_LOAD_WORD, _AND, _SHIFT_RIGHT, _MOVE, _MOVE_REGISTER = 0x61, 0x54, 0x74, 0xB7, 0xBF
_JUMP_UNLESS_EQUAL, _JUMP_UNLESS_EQUAL_REGISTER, _EXIT = 0x55, 0x5D, 0x95
_ACCESS = {"m": 1, "r": 2, "w": 4}
_TYPES = {"b": 1, "c": 2, "a": 0}
_ALL = 7
_CONTEXT, _TYPE, _WANTED, _MAJOR, _MINOR, _RESULT, _SPARE = 1, 2, 3, 4, 5, 0, 6


class Rule(NamedTuple):
    """A rule read: type 0 is any, -1 in major or minor is any."""

    allow: bool
    kind: int
    major: int
    minor: int
    access: int


def parse(allow: bool, words: str) -> Rule:
    """The rule of "a", "c 1:3 rwm" or "b *:* m"; BadData for anything else."""
    parts = words.split()
    if parts and parts[0] == "a":
        return Rule(allow, 0, -1, -1, _ALL)
    try:
        kind, numbers, access = parts
        major, minor = (-1 if one == "*" else int(one) for one in numbers.split(":"))
        return Rule(allow, _TYPES[kind], major, minor, sum(_ACCESS[one] for one in set(access)))
    except (ValueError, KeyError):
        raise BadData("cannot read the device rule", repr(words), hint="as in: c 1:3 rwm") from None


def program(rules: Sequence[Rule]) -> bytes:
    """The eBPF of rules: the last one is asked first, so that the first match decides. Pure."""
    code = [
        _instruction(_LOAD_WORD, _TYPE, _CONTEXT, 0),  # struct bpf_cgroup_dev_ctx: access << 16 | type
        _instruction(_AND, _TYPE, value=0xFFFF),
        _instruction(_LOAD_WORD, _WANTED, _CONTEXT, 0),
        _instruction(_SHIFT_RIGHT, _WANTED, value=16),
        _instruction(_LOAD_WORD, _MAJOR, _CONTEXT, 4),
        _instruction(_LOAD_WORD, _MINOR, _CONTEXT, 8),
    ]
    for rule in reversed(rules):
        code += _block(rule)
        if rule[1:] == (0, -1, -1, _ALL):
            return b"".join(code)  # the verifier refuses what can never be reached
    return b"".join([*code, *_answer(True)])


def _block(rule: Rule) -> list[bytes]:
    """The tests of one rule; each jumps over what is left of the block when it fails."""
    tests: list[tuple[int, int, int, int]] = []
    if rule.kind:
        tests.append((_JUMP_UNLESS_EQUAL, _TYPE, 0, rule.kind))
    if rule.access != _ALL:
        tests.append((_MOVE_REGISTER, _SPARE, _WANTED, 0))
        tests.append((_AND, _SPARE, 0, rule.access))
        tests.append((_JUMP_UNLESS_EQUAL_REGISTER, _SPARE, _WANTED, 0))
    if rule.major >= 0:
        tests.append((_JUMP_UNLESS_EQUAL, _MAJOR, 0, rule.major))
    if rule.minor >= 0:
        tests.append((_JUMP_UNLESS_EQUAL, _MINOR, 0, rule.minor))
    length = len(tests) + 2
    jumps = (_JUMP_UNLESS_EQUAL, _JUMP_UNLESS_EQUAL_REGISTER)
    code = [
        _instruction(opcode, target, source, length - at - 1 if opcode in jumps else 0, value)
        for at, (opcode, target, source, value) in enumerate(tests)
    ]
    return [*code, *_answer(rule.allow)]


def _answer(allow: bool) -> list[bytes]:
    return [_instruction(_MOVE, _RESULT, value=int(allow)), _instruction(_EXIT)]


def _instruction(opcode: int, target: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    return struct.pack("<BBhi", opcode, source << 4 | target, offset, value)


def attach(directory: str, rules: Sequence[Rule]) -> None:
    """Load the rules and hang them on a v2 group; they go with it. Failure in the kernel's words."""
    try:
        filter_fd = syscalls.bpf_load_device_filter(program(rules))
        try:
            group = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                syscalls.bpf_attach_device_filter(group, filter_fd)
            finally:
                os.close(group)
        finally:
            os.close(filter_fd)
    except OSError as error:
        why = os.strerror(error.errno or 0)
        hint = "as root, on a kernel with CONFIG_CGROUP_BPF"
        raise Failure("cannot set the device rules of", directory, why, hint) from None
