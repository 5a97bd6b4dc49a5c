"""Device rules on cgroup v2: the eBPF program against the rules, and against the kernel."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from capabilities import need
from hypothesis import given
from hypothesis import strategies as st

from containers.oci import groups, limits
from host.errors import BadData
from host.linux import device_filter
from host.linux.device_filter import Rule

_numbers = st.sampled_from([-1, 0, 1, 3, 200])
_rules = st.builds(Rule, st.booleans(), st.sampled_from([0, 1, 2]), _numbers, _numbers, st.integers(1, 7))


def _run(code: bytes, kind: int, access: int, major: int, minor: int) -> bool:
    """An interpreter for the few instructions that the program is made of."""
    registers = [0] * 11
    words = {0: access << 16 | kind, 4: major, 8: minor}
    at = 0
    while True:
        opcode, pair, offset, value = device_filter.struct.unpack_from("<BBhi", code, at * 8)
        target, source = pair & 15, pair >> 4
        at += 1
        match opcode:
            case 0x61:
                registers[target] = words[offset]
            case 0x54:
                registers[target] &= value
            case 0x74:
                registers[target] >>= value
            case 0xB7:
                registers[target] = value
            case 0xBF:
                registers[target] = registers[source]
            case 0x55:
                at += offset if registers[target] != value else 0
            case 0x5D:
                at += offset if registers[target] != registers[source] else 0
            case 0x95:
                return bool(registers[0])
            case _:
                raise AssertionError(hex(opcode))


def _decided(rules: list[Rule], kind: int, access: int, major: int, minor: int) -> bool:
    for rule in reversed(rules):
        fits = rule.kind in (0, kind) and access & rule.access == access
        if fits and rule.major in (-1, major) and rule.minor in (-1, minor):
            return rule.allow
    return True


@given(
    st.lists(_rules, max_size=6),
    st.sampled_from([1, 2]),
    st.integers(1, 7),
    st.sampled_from([0, 1, 3, 200]),
    st.sampled_from([0, 1, 3, 200]),
)
def test_program_decides_as_the_rules_say(
    rules: list[Rule], kind: int, access: int, major: int, minor: int
) -> None:
    code = device_filter.program(rules)
    assert _run(code, kind, access, major, minor) == _decided(rules, kind, access, major, minor)


def test_rules_are_read_in_the_words_of_v1() -> None:
    assert device_filter.parse(False, "a") == Rule(False, 0, -1, -1, 7)
    assert device_filter.parse(True, "c 136:* rw") == Rule(True, 2, 136, -1, 6)
    for bad in ("", "c", "x 1:3 r", "c 1 r", "c 1:3 x", "c a:b r", "c 1:3"):
        with pytest.raises(BadData):
            device_filter.parse(True, bad)


@pytest.fixture
def group() -> Iterator[Path]:
    """A group of our own in the v2 hierarchy, wherever it is mounted."""
    need("root")
    found = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if " cgroup2 " in line]
    if not found:
        pytest.skip("needs a cgroup2 mount")
    made = Path(found[0], f"vmm-devices-{uuid.uuid4().hex[:8]}")
    made.mkdir()
    yield made
    made.rmdir()


def _reads(group: Path, device: str) -> bool:
    script = f"echo $$ > {group}/cgroup.procs && head -c1 {device} > /dev/fd/1"
    return subprocess.run(["sh", "-c", script], capture_output=True, check=False).returncode == 0


def test_kernel_keeps_the_rules(group: Path) -> None:
    assert _reads(group, "/dev/zero")
    rules = [
        device_filter.parse(False, "a"),
        device_filter.parse(True, "c 1:3 rwm"),
        device_filter.parse(True, "c 1:9 r"),
    ]
    device_filter.attach(str(group), rules)
    assert _reads(group, "/dev/null")
    assert _reads(group, "/dev/urandom")
    assert not _reads(group, "/dev/zero")
    assert os.path.exists("/dev/zero")


def test_bundles_rules_on_v2(group: Path) -> None:
    whole = groups.Group(f"/{group.name}", [groups.Hierarchy(str(group.parent), (), "/")])
    assert whole.version == 2
    limits.filter_devices_v2(whole, [{"allow": False, "access": "rwm"}])
    assert _reads(group, "/dev/zero")
    assert not _reads(group, "/dev/kmsg")


def test_engines_own_groups_keep_their_rules_on_v2(group: Path) -> None:
    from host.linux.cgroup import Cgroup, Layout, Limits

    made = Cgroup("c1", Layout(2, {"memory": str(group)}))
    try:
        made.create(Limits(), ["c 1:3 rwm"])
        (path,) = map(Path, made.directories())
        assert _reads(path, "/dev/null")
        assert not _reads(path, "/dev/zero")
    finally:
        made.remove()
        (group / "vmm").rmdir()
