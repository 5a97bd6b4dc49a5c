"""Control groups: the words of both versions, where they are found, and what a group does."""

from __future__ import annotations

import os
import subprocess
import time

import pytest
from capabilities import need

from host.errors import DeadlinePassed, Failure, HostUnfit
from host.linux import cgroup, cgroup_v1, cgroup_v2
from host.linux.cgroup import Cgroup, Layout, Limits

ALL = Limits(
    memory_bytes=1 << 26, swap_bytes=1 << 20, cpus=1.5, shares=512, cpuset="0-1", pids=9, io_weight=200,
    io_bps=(("8:0", "read", 1000),), io_iops=(("8:0", "write", 50),),
)  # fmt: skip


def words(settings):
    return {f"{one.file}={one.value}" for one in settings}


def test_the_words_of_v1():
    assert words(cgroup.settings(1, ALL)) == {
        "memory.limit_in_bytes=67108864", "memory.memsw.limit_in_bytes=68157440", "cpu.shares=512",
        "cpu.cfs_period_us=100000", "cpu.cfs_quota_us=150000", "cpuset.cpus=0-1", "pids.max=9",
        "blkio.bfq.weight=200", "blkio.throttle.read_bps_device=8:0 1000",
        "blkio.throttle.write_iops_device=8:0 50",
    }  # fmt: skip


def test_the_words_of_v2():
    assert words(cgroup.settings(2, ALL)) == {
        "memory.max=67108864", "memory.swap.max=1048576", "cpu.weight=20", "cpu.max=150000 100000",
        "cpuset.cpus=0-1", "pids.max=9", "io.weight=200", "io.max=8:0 rbps=1000", "io.max=8:0 wiops=50",
    }  # fmt: skip


def test_every_limit_shows_in_the_words_of_both():
    for field, value in ALL._asdict().items():
        if field == "swap_bytes":
            continue  # speaks only with memory
        for version in (1, 2):
            alone = Limits(**{field: value})
            assert words(cgroup.settings(version, alone)) != words(cgroup.settings(version, Limits())), field


def test_defaults_are_not_asked_for():
    for version in (1, 2):
        assert [one.asked for one in cgroup.settings(version, Limits())] == [False]


@pytest.mark.parametrize(("shares", "weight"), [(2, 1), (1024, 39), (262_144, 10_000), (1, 1)])
def test_shares_become_a_weight(shares, weight):
    assert cgroup_v2.weight(shares) == weight


MOUNTS = """\
30 25 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
33 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
34 30 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
"""


def test_hierarchies_are_found_in_mountinfo():
    v1, v2 = cgroup._mounts(MOUNTS)
    assert v1 == {
        "cpu": "/sys/fs/cgroup/cpu,cpuacct",
        "cpuacct": "/sys/fs/cgroup/cpu,cpuacct",
        "memory": "/sys/fs/cgroup/memory",
    }
    assert v2 == "/sys/fs/cgroup/unified"


def test_own_paths_are_read_by_controller():
    assert cgroup._own_paths("4:memory:/a/b\n2:cpu,cpuacct:/c\n0::/d\n") == {
        "memory": "/a/b", "cpu": "/c", "cpuacct": "/c", "": "/d",
    }  # fmt: skip


def test_a_v2_tree_of_plain_files_is_written_and_read(tmp_path):
    """v2 without a v2 kernel: what is written where, in a directory that plays the file system."""
    (tmp_path / "cgroup.controllers").write_text("memory pids")
    (tmp_path / "cgroup.subtree_control").touch()
    (tmp_path / "vmm/g").mkdir(parents=True)
    for name in ("memory.max", "memory.swap.max", "pids.max"):
        (tmp_path / "vmm/g" / name).touch()
    group = Cgroup("g", Layout(2, {"memory": str(tmp_path), "pids": str(tmp_path)}))
    group.apply(cgroup.settings(2, Limits(memory_bytes=4096)))
    assert (tmp_path / "vmm/g/memory.max").read_text() == "4096"
    assert (tmp_path / "vmm/g/pids.max").read_text() == "2048"
    (tmp_path / "vmm/g/memory.events").write_text("low 0\noom_kill 3\n")
    (tmp_path / "vmm/g/cpu.stat").write_text("usage_usec 5\n")
    (tmp_path / "vmm/g/io.stat").write_text("8:0 rbytes=10 wbytes=20 rios=1\n8:16 rbytes=1 wbytes=2\n")
    assert (
        group.stats() | {"oom_kills": 3, "cpu_ns": 5000, "io_read_bytes": 11, "io_write_bytes": 22}
        == group.stats()
    )


def test_v1_counters_are_summed_by_key(tmp_path):
    (tmp_path / "blkio.throttle.io_service_bytes_recursive").write_text("8:0 Read 5\n8:16 Read 7\nTotal 12\n")
    (tmp_path / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    found = cgroup_v1.stats({"blkio": tmp_path, "memory": tmp_path})
    assert found == {"io_read_bytes": 12}, "no limit is no number"


@pytest.mark.parametrize("name", ["a/b", "../x", ".hidden"])
def test_a_name_cannot_lead_elsewhere(name):
    with pytest.raises(Failure):
        Cgroup(name, Layout(1, {}))


@pytest.fixture
def group():
    need("root", "cgroup")
    made = Cgroup(f"test-{os.getpid()}")
    yield made
    made.remove()


@pytest.fixture
def sleeper():
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def test_a_group_is_made_filled_and_removed(group, sleeper):
    group.create(Limits(pids=5))
    group.add(sleeper.pid)
    assert group.pids() == [sleeper.pid]
    assert group.stats()["pids_limit"] == 5
    group.remove()
    assert not group.directories()
    assert sleeper.wait(5) == -9


def test_a_frozen_group_dies_when_killed(group, sleeper):
    group.create(Limits())
    group.add(sleeper.pid)
    group.freeze()
    assert group.frozen()
    os.kill(sleeper.pid, 9)
    time.sleep(0.1)
    group.kill()
    assert sleeper.wait(5) == -9


def test_groups_made_below_ours_go_too(group, sleeper):
    group.create(Limits())
    inner = os.path.join(group.directories()[0], "inner")
    os.mkdir(inner)
    with open(f"{inner}/cgroup.procs", "w") as file:
        file.write(str(sleeper.pid))
    group.remove()
    assert not os.path.exists(inner)


def test_what_was_asked_and_cannot_be_is_told_with_the_way_out():
    group = Cgroup("none", Layout(2, {}, "no cgroup is delegated to this user"))
    with pytest.raises(HostUnfit) as caught:
        group.create(Limits(memory_bytes=1 << 26))
    assert "no cgroup is delegated" in str(caught.value)
    assert "Delegate=yes" in caught.value.hint
    group.create(Limits())
    assert group.left_out == ["pids.max = 2048"]


def test_a_missing_freezer_is_told():
    with pytest.raises(HostUnfit, match="pause"):
        Cgroup("none", Layout(1, {})).freeze()
    assert DeadlinePassed
