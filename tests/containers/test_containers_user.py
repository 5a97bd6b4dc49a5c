"""Containers of an ordinary user: the same engine in a user namespace, by a Python of the user's own."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from capabilities import ORDINARY_USER, need

from host import paths

PYTHON = "/usr/bin/python3"
PROLOGUE = """
import os, sys, time
from pathlib import Path
from containers.container import Container
from containers.spec import ContainerSpec, Mount
from host import paths, records
from host.edges import Edges
from host.errors import Failure
from host.exec_request import ExecRequest
from host.linux import idmap
from host.linux.cgroup import Limits
from host.stdio import Stdio

def make(*argv, name="c1", **wishes):
    folder = paths.instances_dir() / name
    folder.mkdir(parents=True, exist_ok=True)
    spec = ContainerSpec(name, (os.environ["ROOTFS"],), argv, ephemeral=True, **wishes)
    records.write(folder / "instance.json", {"spec": spec.to_record()})
    return Container(folder, paths.run_dir() / name, spec)

def shell(script, **wishes):
    return make("/bin/sh", "-c", script, **wishes)
"""


class User:
    """Run Python as the ordinary user, with a home of its own."""

    def __init__(self, home: Path, rootfs: Path) -> None:
        self.home = home
        entry = pwd.getpwnam(ORDINARY_USER)
        self.ids = entry.pw_uid, entry.pw_gid
        for path in home.rglob("*"):
            os.lchown(path, *self.ids)
        os.lchown(home, *self.ids)
        self.env = {
            "HOME": str(home),
            "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
            "VMM_HOME": str(home / "vmm"),
            "XDG_RUNTIME_DIR": str(home / "run"),
            "VMM_GUEST": str(paths.guest_helper()),
            "PYTHONPATH": f"{Path(__file__).parents[2]}:{Path(pytest.__file__).parents[1]}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "ROOTFS": str(rootfs),
        }

    def argv(self, script: str) -> list[str]:
        """The words of a process that runs the script."""
        return [PYTHON, "-c", PROLOGUE + textwrap.dedent(script)]

    def run(self, script: str) -> str:
        """The output of a Python script that ends well; its words are the failure."""
        done = subprocess.run(
            self.argv(script),
            env=self.env, user=self.ids[0], group=self.ids[1], extra_groups=[], cwd="/",
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def user(rootfs: Path) -> Iterator[User]:
    need("root", "user", "userns", "overlay", "guest-helper")
    if not Path(PYTHON).exists() or sys.version_info[:2] != (3, 11):
        pytest.skip(f"no {PYTHON} of this version, which another user may run")
    home = Path(tempfile.mkdtemp(prefix="vmm-user-", dir="/tmp"))
    (home / "run").mkdir()
    mine = home / "rootfs"
    shutil.copytree(rootfs, mine, symlinks=True)
    home.chmod(0o755)
    yield User(home, mine)
    shutil.rmtree(home, ignore_errors=True)


def test_it_runs_as_root_of_its_own_user_namespace(user):
    output = user.run("""
        script = "id -u; cat /proc/self/uid_map; touch /made; ls -l /dev/null; exit 3"
        print("status", shell(script).run(Stdio(), Edges()))
    """)
    lines = output.splitlines()
    assert lines[0] == "0"
    assert lines[1].split() == ["0", str(user.ids[0]), "1"]
    assert lines[2].split() == ["1", "100000", "65536"]
    assert lines[-1] == "status 3"
    made = user.home / "vmm/instances/c1/upper/made"
    assert made.stat().st_uid == user.ids[0]


def test_every_namespace_is_its_own(user):
    script = "for k in user mnt pid ipc uts net cgroup; do readlink /proc/self/ns/$k; done"
    inside = user.run(f"shell({script!r}).run(Stdio(), Edges())").split()
    outside = {
        os.readlink(f"/proc/self/ns/{kind}") for kind in ("user", "mnt", "pid", "ipc", "uts", "net", "cgroup")
    }
    assert len(inside) == 7
    assert not set(inside) & outside


def test_the_same_protections_hold(user):
    output = user.run("""shell(
        "grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status; mount -t tmpfs x /tmp;"
        "echo mount $?; cat /proc/keys; ls /sys/firmware; unshare -U true; echo unshare $?"
    ).run(Stdio(), Edges())""")
    assert "CapEff:\t00000000800405fb" in output
    assert "NoNewPrivs:\t1" in output
    assert "Seccomp:\t2" in output
    assert "mount 1" in output
    assert "unshare 1" in output


def test_another_user_of_the_image_and_its_files(user):
    output = user.run("""
        c = shell("id -u; touch /tmp/mine; mkdir -m 700 /tmp/deep; touch /tmp/deep/f", user="ann")
        print(c.run(Stdio(), Edges()))
        print(os.stat(c.folder / "upper/tmp/mine").st_uid)
        c.remove()
        print(sorted(os.listdir(c.folder)))
    """)
    assert output.split() == ["1000", "0", "100999", "['instance.json']"]


def test_without_subordinate_ids_one_user_is_enough(user):
    output = user.run("""
        idmap._subordinate = lambda *_: None
        print(shell("cat /proc/self/uid_map; id -u").run(Stdio(), Edges()))
    """)
    assert output.split() == ["0", str(user.ids[0]), "1", "0", "0"]


def test_an_asked_limit_without_delegation_is_an_error_and_a_default_is_left_out(user):
    output = user.run("""
        try:
            shell("true", limits=Limits(memory_bytes=1 << 26)).run(Stdio(), Edges())
        except Failure as error:
            print(error.told())
        group = make("/bin/true", name="c2").cgroup()
        group.create(Limits())
        print("left out:", group.left_out)
    """)
    assert "cannot set the limit memory" in output
    assert "hint: " in output
    assert "Delegate=yes" in output
    assert "left out: ['pids.max = 2048']" in output


def test_detached_with_exec_logs_and_stop(user):
    output = user.run("""
        c = shell("echo hello; trap 'exit 4' TERM; while :; do sleep 0.05; done")
        c.start(Edges())
        stdio = Stdio(0, 1, 1)
        script = "id -u; readlink /proc/self/ns/user; exit 5"
        print(c.state(), c.exec(ExecRequest(("sh", "-c", script)), stdio))
        sys.stdout.flush()
        time.sleep(0.3)
        c.stop(10)
        print(c.status())
        c.logs(True, None, False, 1)
        c.remove()
    """)
    words = output.split()
    assert "125" not in words, output
    assert {"0", "running", "5", "4", "hello"} < set(words)
    inside = next(word for word in words if word.startswith("user:["))
    assert inside != os.readlink("/proc/self/ns/user")


def test_kill_9_of_us_ends_it(user):
    output = user.run("""
        c = shell("echo up; sleep 60")
        pid = os.fork()
        if pid == 0:
            os._exit(c.run(Stdio(), Edges()))
        while c.pid() is None or "sleep" not in open(f"/proc/{c.pid()}/cmdline").read():
            time.sleep(0.01)
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        time.sleep(0.5)
        print(c.pid())
    """)
    assert output.split()[-1] == "None"


def test_limits_hold_in_a_group_that_systemd_delegated(user):
    """systemd.resource-control(5), Delegate=: what the hint of a refused limit tells a user to ask for."""
    need("systemd")
    script = """
        hog = "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done"
        bounded = shell(hog, name="hog", limits=Limits(memory_bytes=32 << 20))
        print("hog", bounded.run(Stdio(), Edges()), flush=True)
        limits = Limits(memory_bytes=64 << 20, cpus=0.5, pids=20)
        container = make("/bin/sleep", "60", name="c2", limits=limits)
        container.start(Edges())
        print(container.cgroup().directories())
        stats = container.stats()
        print(stats["memory_limit_bytes"], stats["pids_limit"], stats["pids"] >= 2)
        container.update(pids=30)
        container.pause()
        print(container.state(), container.stats()["pids_limit"])
        container.stop(0)
        container.remove()
    """
    unit = ["systemd-run", "--quiet", "--pipe", "--wait", "-p", "Delegate=yes", "-p", f"User={user.ids[0]}"]
    env = [word for pair in user.env.items() for word in ("-E", "=".join(pair))]
    done = subprocess.run(
        [*unit, *env, *user.argv(script)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    first, where, numbers, paused = done.stdout.splitlines()
    assert first == "hog 137"
    assert "out of memory: the limit of 32 MiB was used up" in done.stderr
    assert where.startswith("['/sys/fs/cgroup/system.slice/run-")
    assert numbers == f"{64 << 20} 20 True"
    assert paused == "paused 30"


def test_a_default_that_cannot_be_set_is_told(user):
    output = user.run("""
        container = shell("true")
        print(container.run(Stdio(), Edges()), container.inspect()["limits_left_out"])
    """)
    assert output.split(maxsplit=1) == ["0", "['pids.max = 2048']\n"]


def test_a_volume_given_to_another_user_inside_can_be_removed_again(user):
    """Its files belong to a subordinate id then, which the ordinary user himself may not touch."""
    output = user.run("""
        from instances import registry
        data = Path(os.environ["HOME"]) / "data"
        data.mkdir()
        (data / "before").touch()
        given = (Mount("bind", "/d", str(data), own=True),)
        script = "mkdir /d/made && touch /d/made/file && chmod 700 /d/made && stat -c %u /d /d/before"
        print(shell(script, user="1000", mounts=given).run(Stdio(), Edges()))
        print(data.stat().st_uid not in (0, os.getuid()))
        registry.remove_tree(data)
        print(data.exists())
    """)
    assert output.split() == ["1000", "1000", "0", "True", "False"]


def test_a_user_who_is_nobody_out_here_is_refused_in_words(user):
    output = user.run("""
        for who in ("70000", "0:70000"):
            try:
                shell("true", user=who).run(Stdio(), Edges())
            except Failure as error:
                print(error)
    """)
    assert output.count("the id 70000 is not among the subordinate ids") == 2


def test_the_host_s_processes_are_refused_in_words(user):
    output = user.run("""
        try:
            shell("true", pid_namespace="host").run(Stdio(), Edges())
        except Failure as error:
            print(error.told())
    """)
    assert "user namespace" in output
    assert "hint: as root" in output
