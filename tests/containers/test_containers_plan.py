"""The plan: pure, printable without rights, and moved by every field of the spec."""

from __future__ import annotations

import json
import stat

import pytest

from containers import capabilities, changes, mounts, plan, users
from containers.spec import ContainerSpec, Device, Health, Mount, check
from host.errors import Usage
from host.linux.cgroup import Layout, Limits

CONTROLLERS = ("pids", "memory", "cpu", "freezer", "devices")
LAYOUT = Layout(1, {name: f"/sys/fs/cgroup/{name}" for name in CONTROLLERS})
BASE = ContainerSpec("box", ("/layers/top", "/layers/base"), ("true",))


def facts(spec, **wishes):
    values = {
        "folder": "/home/instances/box", "run": "/run/vmm/x/box", "identity": users.Identity(),
        "rootless": False, "cgroup_layout": LAYOUT, "cgroup_name": "x-box",
    }  # fmt: skip
    return plan.Facts(**{**values, **wishes})


def told(spec, **wishes):
    known = facts(spec, **wishes)
    return "\n".join(plan.describe(plan.plan(spec, known), known))


def test_the_plan_reads_as_shell_commands_in_order():
    lines = told(BASE._replace(limits=Limits(memory_bytes=1 << 26))).splitlines()
    order = [
        "echo '67108864' > /sys/fs/cgroup/memory/vmm/x-box/memory.limit_in_bytes",
        "unshare --mount --pid --fork --ipc --uts --net -- sh",
        "mount --make-rslave /",
        "cd /home/instances/box && pivot_root . .",
        "umount -l .",
        "mount --bind /dev/null /proc/kcore",
        "unshare --cgroup",
    ]
    positions = [lines.index(line) for line in order]
    assert positions == sorted(positions)
    assert lines[-1].startswith("setpriv --reuid 0 ")


CHANGES = {
    "lower_dirs": ("/other",), "argv": ("false",), "env": ("A=b",), "hostname": "other", "name": "other",
    "mounts": (Mount("bind", "/data", "/src"),), "devices": (Device("/dev/fuse", "/dev/fuse"),),
    "limits": Limits(pids=3), "capabilities": ("KILL",), "masked": False, "privileged": True,
    "network": "host",
    "pid_namespace": "host", "ipc_namespace": "host", "uts_namespace": "host", "cgroup_namespace": "host",
    "read_only": True, "tty": True, "shm_bytes": 1 << 20, "sysctls": (("net.x", "1"),), "ephemeral": True,
    "time_offset_s": 5.0, "extra_hosts": ("a:1.2.3.4",), "dns": ("1.1.1.1",),
}  # fmt: skip


@pytest.mark.parametrize("field", CHANGES)
def test_every_field_that_acts_shows_in_the_plan(field):
    assert told(BASE._replace(**{field: CHANGES[field]})) != told(BASE)


def test_a_rootless_plan_makes_no_nodes_and_uses_user_attributes():
    text = told(BASE, rootless=True)
    assert "--user" in text
    assert "userxattr" in text
    assert "mknod" not in text
    assert "gid=5" not in text


def test_the_spec_survives_its_record():
    spec = BASE._replace(
        mounts=(Mount("tmpfs", "/t", options=("size=1m",)),), devices=(Device("/dev/a", "/dev/b", "r"),),
        limits=Limits(memory_bytes=5, io_bps=(("8:0", "read", 3),)), health=Health(("true",), interval_s=1.5),
        ports=(("127.0.0.1", 80, 8080, "tcp"),), ulimits=(("nofile", 1, 2),),
    )  # fmt: skip
    record = json.loads(json.dumps(spec.to_record()))
    assert ContainerSpec.from_record(record) == spec
    assert ContainerSpec.from_record({**record, "of_a_later_version": 1}) == spec
    assert set(BASE.to_record()) == {"name", "lower_dirs", "argv"}


@pytest.mark.parametrize(
    "wishes",
    [
        {"argv": ()}, {"argv": ("",)}, {"argv": ("a\0b",)}, {"hostname": "x" * 65}, {"cwd": "tmp"},
        {"cwd": "/proc/self/fd/7"}, {"mounts": (Mount("bind", "relative", "/x"),)},
        {"mounts": (Mount("bind", "/", "/x"),)}, {"mounts": (Mount("bind", "/proc/sys", "/x"),)},
        {"limits": Limits(memory_bytes=1)}, {"limits": Limits(cpus=0.0)}, {"oom_score_adj": 1001},
        {"sysctls": (("vm.swappiness", "1"),)}, {"sysctls": (("net.a/../../vm.swappiness", "1"),)},
        {"sysctls": (("net.ipv4.ip_forward", "1"),), "network": "host"},
        {"sysctls": (("kernel.msgmax", "1"),), "ipc_namespace": "host"},
    ],
)  # fmt: skip
def test_words_that_no_host_could_run_are_refused(wishes):
    with pytest.raises(Usage):
        check(BASE._replace(**wishes))


def test_the_command_is_searched_as_execvp_does():
    env = ("PATH=/a:/b:",)
    assert plan.candidates("x", env) == ("/a/x", "/b/x", "./x")
    assert plan.candidates("./x", env) == ("./x",)


def test_layer_names_are_escaped_for_mount():
    host = mounts.Host("/f", "/r", False, False)
    options = mounts.overlay_options(BASE._replace(lower_dirs=("/a:b", "/c,d", "/e\\f")), host)
    assert options.startswith("lowerdir=/a\\:b:/c\\,d:/e\\\\f,upperdir=")


def test_every_capability_has_its_number():
    assert capabilities.mask(("CHOWN",)) == 1
    assert capabilities.mask(("CAP_CHECKPOINT_RESTORE",)) == 1 << 40
    assert capabilities.names(0b100001) == ["CHOWN", "KILL"]


@pytest.fixture
def image(tmp_path):
    (tmp_path / "top/etc").mkdir(parents=True)
    (tmp_path / "base/etc").mkdir(parents=True)
    (tmp_path / "base/etc/passwd").write_text(
        "root:x:0:0::/root:/bin/sh\nann:x:1000:100::/home/ann:\nbad line\n"
    )
    (tmp_path / "base/etc/group").write_text("users:x:100:\naudio:x:29:bob,ann\n")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", (0, 0, (0,), "/root")),
        ("ann", (1000, 100, (100, 29), "/home/ann")),
        ("1000", (1000, 100, (100, 29), "/home/ann")),
        ("ann:audio", (1000, 29, (29,), "/home/ann")),
        ("4711", (4711, 0, (0,), "/")),
        ("4711:4712", (4711, 4712, (4712,), "/")),
    ],
)
def test_users_are_read_from_the_image(image, words, expected):
    found = users.resolve(words, (str(image / "top"), str(image / "base")))
    assert tuple(found) == expected


@pytest.mark.parametrize(
    "words", ["nobody", "-1", "4294967295", "1_0", " 1", "٣", "ann:", ":5", "ann:none", "0x1"]
)
def test_words_that_are_no_user_are_refused(image, words):
    with pytest.raises(Usage):
        users.resolve(words, (str(image / "top"), str(image / "base")))


def test_a_passwd_deleted_above_is_not_looked_up_below(image):
    import os

    if os.geteuid() != 0:
        pytest.skip("a whiteout is a device node")
    os.mknod(image / "top/etc/passwd", stat.S_IFCHR, 0)
    with pytest.raises(Usage, match="not in the image"):
        users.resolve("ann", (str(image / "top"), str(image / "base")))


def test_changes_of_a_layer_without_a_container(tmp_path):
    (tmp_path / "low/d").mkdir(parents=True)
    (tmp_path / "low/d/old").touch()
    (tmp_path / "up/d").mkdir(parents=True)
    (tmp_path / "up/d/new").touch()
    assert changes.changes(str(tmp_path / "up"), (str(tmp_path / "low"),)) == [("C", "/d"), ("A", "/d/new")]
