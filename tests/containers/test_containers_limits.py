"""Limits that hold: what a container may use, told when it used it up, changed while it runs."""

from __future__ import annotations

import time

import pytest

from containers.spec import Mount
from host import records
from host.edges import Edges
from host.errors import Failure, HostUnfit, Usage
from host.linux.cgroup import Limits

HOG = "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done"


def start(lab, script, **wishes):
    container = lab.make("/bin/sh", "-c", script, **wishes)
    records.write(container.folder / "instance.json", {"spec": container.spec.to_record()})
    container.start(Edges())
    return container


def test_memory_is_bounded_and_the_oom_kill_is_told(lab):
    container = start(lab, HOG, limits=Limits(memory_bytes=32 << 20))
    assert container.wait(60) == 137
    assert container.inspect()["oom_killed"] is True
    other = start(lab, "exit 1", name="c2", limits=Limits(memory_bytes=32 << 20))
    other.wait(20)
    assert other.inspect()["oom_killed"] is False


def test_a_fork_bomb_meets_the_pids_limit(lab):
    script = "i=0; while [ $i -lt 30 ]; do sleep 5 & i=$((i+1)); done; echo all"
    _, output = lab.shell(script, limits=Limits(pids=10))
    assert "can't fork" in output
    assert "all" not in output
    assert lab.shell(script, limits=Limits(pids=-1))[1] == "all\n"


def test_the_default_pids_limit_is_there(lab):
    assert lab.shell("cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null")[1] == "2048\n"


def test_cpu_is_throttled(lab):
    container = start(lab, "while :; do :; done", limits=Limits(cpus=0.2))
    time.sleep(0.3)
    before, began = container.stats()["cpu_ns"], time.monotonic_ns()
    time.sleep(1.0)
    used = (container.stats()["cpu_ns"] - before) / (time.monotonic_ns() - began)
    assert used < 0.35, "without the limit a busy loop takes a whole core"
    assert container.stats()["cpu_throttled_ns"] > 0


def test_cpuset_binds_to_a_cpu(lab):
    output = lab.shell("grep Cpus_allowed_list /proc/self/status", limits=Limits(cpuset="0"))[1]
    assert output.split()[1] == "0"


def test_memory_below_what_can_start_is_one_error(lab):
    with pytest.raises(Failure, match="no process can start"):
        lab.run(lab.make("/bin/true", limits=Limits(memory_bytes=4096)))
    status, output = lab.shell(HOG, limits=Limits(memory_bytes=8 << 20), init=True)
    assert status == 137
    assert "out of memory: the limit of 8 MiB was used up" in output
    assert not lab.made[-1].cgroup().directories()


def test_limits_change_while_it_runs(lab):
    container = start(lab, "sleep 60", limits=Limits(memory_bytes=64 << 20))
    spec = container.update(memory_bytes=128 << 20, pids=7, cpus=0.5)
    assert spec.limits == Limits(memory_bytes=128 << 20, pids=7, cpus=0.5)
    stats = container.stats()
    assert stats["memory_limit_bytes"] == 128 << 20
    assert stats["pids_limit"] == 7
    status, _ = lab.exec(container, "sh", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 2 & done")
    assert status != 0
    container.update(memory_bytes=32 << 20)
    assert container.stats()["memory_limit_bytes"] == 32 << 20


def test_an_update_that_the_kernel_refuses_changes_nothing(lab):
    container = start(lab, "sleep 60", limits=Limits(pids=50))
    with pytest.raises(Failure):
        container.update(pids=60, cpuset="4711")
    assert container.stats()["pids_limit"] == 50


def test_stats_count(lab):
    container = start(lab, "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 60")
    time.sleep(0.5)
    stats = container.stats()
    assert stats["cpu_ns"] > 1_000_000
    assert 100_000 < stats["memory_bytes"] < 64 << 20
    assert stats["pids"] >= 2
    assert {"net_rx_bytes", "net_tx_bytes"} <= set(stats)


def test_top_shows_pids_inside_and_outside(lab):
    container = start(lab, "sleep 60")
    until = time.monotonic() + 5
    while (rows := container.top())[2][-1] != "sleep 60" and time.monotonic() < until:
        time.sleep(0.02)  # the shell has yet to become it
    assert rows[0][0] == "PID"
    assert rows[1][:2] == ["1", str(container.pid())]
    assert rows[2][-1] == "sleep 60"


def test_an_io_limit_without_the_controller_is_an_error(lab, monkeypatch):
    from host.linux import cgroup

    bare = cgroup.Layout(1, {"pids": "/sys/fs/cgroup/pids"}, "")
    group = cgroup.Cgroup("nothing-made", bare)
    with pytest.raises(HostUnfit, match="blkio"):
        group.create(Limits(io_bps=(("8:0", "read", 1 << 20),)))
    assert not group.directories()


def test_ulimits_sysctls_shm_tmpfs_and_oom_score(lab):
    status, output = lab.shell(
        "ulimit -n; cat /proc/sys/net/ipv4/ip_default_ttl; df -k /dev/shm | tail -1;"
        "cat /proc/self/oom_score_adj; df -k /scratch | tail -1; touch /scratch/x && echo writable",
        ulimits=(("nofile", 77, 99),), sysctls=(("net.ipv4.ip_default_ttl", "33"),), shm_bytes=1 << 20,
        oom_score_adj=500, mounts=(Mount("tmpfs", "/scratch", options=("size=2m",)),),
    )  # fmt: skip
    lines = output.splitlines()
    assert status == 0
    assert lines[:2] == ["77", "33"]
    assert lines[2].split()[1] == "1024"
    assert lines[3] == "500"
    assert lines[4].split()[1] == "2048"
    assert lines[5] == "writable"


def test_limits_of_a_process_that_cannot_be_set_are_one_error(lab):
    with pytest.raises(Usage, match="no such limit 'files'"):
        lab.shell("true", ulimits=(("files", 1, 1),))
    for soft, hard in ((9, 5), (1 << 40, 1 << 40)):
        with pytest.raises(HostUnfit, match="nofile"):
            lab.shell("true", ulimits=(("nofile", soft, hard),))
    assert not lab.made[-1].cgroup().directories()


def test_a_read_only_root_with_a_writable_volume(lab):
    data = lab.home / "data"
    data.mkdir()
    _, output = lab.shell(
        "touch /x; touch /data/y && echo ok", read_only=True, mounts=(Mount("volume", "/data", str(data)),)
    )
    assert "Read-only file system" in output
    assert output.endswith("ok\n")
    assert (data / "y").exists()


def test_a_volume_is_given_to_the_user_when_asked(lab):
    data = lab.home / "data"
    (data / "sub").mkdir(parents=True)
    mount = Mount("volume", "/data", str(data))
    assert lab.shell("touch /data/sub/f", user="ann", mounts=(mount,))[0] != 0
    assert lab.shell("touch /data/sub/f", user="ann", mounts=(mount._replace(own=True),))[0] == 0
    assert (data / "sub/f").stat().st_uid == 1000


def test_removing_a_container_leaves_volumes_and_binds(lab):
    data = lab.home / "data"
    data.mkdir()
    container = lab.make("/bin/sh", "-c", "touch /data/kept", mounts=(Mount("bind", "/data", str(data)),))
    lab.run(container)
    container.remove()
    assert (data / "kept").exists()
    assert not (container.folder / "upper").exists()


def test_many_layers_with_long_names(lab, rootfs):
    """The kernel takes 4 KiB of mount options: deep stacks need shorter words."""
    lowers = []
    for number in range(60):
        layer = lab.home / ("l" * 100) / f"{number:064d}"
        layer.mkdir(parents=True)
        (layer / f"f{number}").touch()
        lowers.append(str(layer))
    status, output = lab.shell("ls / | grep -c ^f", lower_dirs=(*lowers, str(rootfs)))
    assert (status, output) == (0, "60\n")


def test_awkward_names_of_layers(lab, rootfs):
    layer = lab.home / "a:b,c\\d"
    layer.mkdir()
    (layer / "here").touch()
    assert lab.shell("ls /here", lower_dirs=(str(layer), str(rootfs))) == (0, "/here\n")


def test_copy_in_and_out_keep_content_and_mode(lab):
    tree = lab.home / "tree"
    (tree / "deep").mkdir(parents=True)
    (tree / "deep/f").write_text("content")
    (tree / "deep/f").chmod(0o640)
    (tree / "link").symlink_to("deep/f")
    container = start(lab, "sleep 60")
    container.copy_in(tree, "/tmp")
    assert (
        lab.exec(container, "sh", "-c", "cat /tmp/tree/link; stat -c %a /tmp/tree/deep/f")[1]
        == "content640\n"
    )
    container.stop(0)
    container.copy_out("/tmp/tree", lab.home / "back")
    assert (lab.home / "back/deep/f").read_text() == "content"
    assert (lab.home / "back/link").readlink().name == "f"


def test_diff_tells_added_changed_and_deleted(lab, rootfs):
    container = lab.make("/bin/sh", "-c", "rm /bin/plain; echo x >> /etc/group; mkdir /new; touch /new/f")
    lab.run(container)
    found = dict((path, kind) for kind, path in container.diff())
    assert found["/bin/plain"] == "D"
    assert found["/etc/group"] == "C"
    assert found["/new"] == found["/new/f"] == "A"
