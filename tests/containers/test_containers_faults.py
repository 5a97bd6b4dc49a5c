"""kill -9 at random moments of everything: nothing leaks, and every later word is right."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import tempfile
import time
from pathlib import Path

import leaks
import pytest

from containers import runtime
from containers.spec import Mount
from host import paths, records
from host.edges import Edges
from host.errors import Failure
from host.exec_request import ExecRequest
from host.linux.cgroup import Limits
from host.stdio import Stdio

ROUNDS = int(os.environ.get("VMM_FAULT_ROUNDS", "200"))
LONGEST_S = 0.06


def in_child(work) -> int:
    """Fork and work there; what it says goes nowhere."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            null = os.open(os.devnull, os.O_RDWR)
            for number in range(3):
                os.dup2(null, number)
            work()
            status = 0
        finally:
            os._exit(status)
    return pid


def a_run(lab, container):
    lab.run(container)


def a_start(lab, container):
    container.start(Edges())


def an_exec(lab, container):
    with tempfile.TemporaryFile() as output:
        container.exec(ExecRequest(("true",)), Stdio(0, output.fileno(), output.fileno()))


def a_stop(lab, container):
    container.stop(0)


def a_removal(lab, container):
    container.stop(0)
    container.remove()


def supervisors(home):
    found = []
    for name in os.listdir("/proc"):
        try:
            words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"containers.supervisor" in words and str(home).encode() in words:
            found.append(int(name))
    return found


def prepared(lab, number, running):
    container = lab.make("/bin/sleep", "60", name=f"f{number}")
    records.write(container.folder / "instance.json", {"spec": container.spec.to_record()})
    if running:
        container.start(Edges())
    return container


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kill_9_at_random_moments(lab):
    chance = random.Random(4711)
    words = ((a_run, False), (a_start, False), (an_exec, True), (a_stop, True), (a_removal, True))
    with leaks.none(lab.home, files=False):
        for number in range(ROUNDS):
            work, running = chance.choice(words)
            container = prepared(lab, number, running)
            pid = in_child(lambda work=work, container=container: work(lab, container))
            time.sleep(chance.uniform(0, LONGEST_S))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            if chance.random() < 0.3:
                for supervisor in supervisors(lab.home):
                    os.kill(supervisor, signal.SIGKILL)
            check_and_clean(container, kill_init=chance.random() < 0.3)
            lab.made.remove(container)
        for supervisor in supervisors(lab.home):
            os.kill(supervisor, signal.SIGTERM)
    assert not [one for one in os.listdir(paths.run_dir(lab.home)) if not one.startswith("supervisor")]


def check_and_clean(container, kill_init):
    """Whatever happened, the state is one of the known, and the next commands work."""
    state, init = container.state(), runtime.living(container.run_dir)
    if (state == "running") != (init is not None):  # it was on its way out just then
        state, init = container.state(), runtime.living(container.run_dir)
    assert state in ("created", "running", "exited"), state
    assert (state == "running") == (init is not None)
    if init and kill_init:
        os.kill(init.pid, signal.SIGKILL)
    container.stop(0)
    assert container.pid() is None
    if container.state() == "exited":
        assert container.status() != 0, "nobody saw an end with 0"
    container.remove()
    assert not container.cgroup().directories()
    assert not container.run_dir.exists()
    assert {one.name for one in container.folder.iterdir()} <= {"instance.json", "lock"}


def test_a_full_disk_is_told_and_leaves_nothing(lab, tmp_path):
    """On four megabytes a hog inside sees ENOSPC itself; without any space the start fails in words."""
    import subprocess

    image, mounted = tmp_path / "disk", tmp_path / "mounted"
    mounted.mkdir()
    with open(image, "wb") as file:
        file.truncate(4 << 20)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", str(image)], check=True)
    if subprocess.run(["mount", "-o", "loop", str(image), str(mounted)], check=False).returncode:
        pytest.skip("no loop device to mount here")
    try:
        folder = mounted / "instances" / "c1"
        folder.mkdir(parents=True)
        script = "dd if=/dev/zero of=/hog bs=64k count=150; echo status $?"
        container = lab.make("/bin/sh", "-c", script, ephemeral=False)
        container.folder = folder
        _, output = lab.run(container)
        assert "No space left" in output
        assert "status 1" in output
        other = mounted / "instances" / "c2"
        other.mkdir()
        _fill(mounted)
        container.folder = other
        with pytest.raises((Failure, OSError), match="No space"):
            lab.run(container)
        assert container.pid() is None
        assert not container.cgroup().directories()
    finally:
        subprocess.run(["umount", str(mounted)], check=True)
        container.folder = lab.home / "instances" / "c1"


def _fill(directory):
    """Take every block and every inode."""
    with contextlib.suppress(OSError), open(directory / "rest", "wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass
    with contextlib.suppress(OSError):
        for number in range(100_000):
            (directory / f"i{number}").touch()


PESTS = {
    "bomb": ("f() { f | f & }; f; sleep 60", {"limits": Limits(pids=60, cpus=0.5)}),
    "hog": (
        "while :; do x=$x$x$x; x=${x:-aaaaaaaa}; done",
        {"limits": Limits(memory_bytes=32 << 20, cpus=0.2), "restart": "always"},
    ),
    "filler": (
        "while :; do dd if=/dev/zero of=/scratch/x bs=64k count=600 2>/dev/null; done",
        {
            "limits": Limits(cpus=0.3),
            "mounts": (Mount("tmpfs", "/scratch", options=("size=16m",)),),
        },
    ),
    "talker": ("while :; do cat /bin/busybox; done", {"limits": Limits(cpus=0.3), "log_bytes": 1 << 20}),
}
ANSWERS = int(os.environ.get("VMM_FAULT_ANSWERS", "30"))


def test_a_neighbour_goes_on_beside_a_bomb_a_hog_a_filler_and_a_talker(lab, capsys):
    neighbour = prepared(lab, 1, True)
    alone = answers(lab, neighbour)
    for name, (script, wishes) in PESTS.items():
        pest = lab.make("/bin/sh", "-c", script, name=name, **wishes)
        records.write(pest.folder / "instance.json", {"spec": pest.spec.to_record()})
        pest.start(Edges())
    beside = answers(lab, neighbour)
    with capsys.disabled():
        for what, times in (("alone", alone), ("beside four pests", beside)):
            p50, p99 = times[len(times) // 2] * 1000, times[max(0, len(times) * 99 // 100 - 1)] * 1000
            print(f"\nan exec into the neighbour, {what}: p50 {p50:.0f} ms, p99 {p99:.0f} ms of {len(times)}")
    assert beside[-1] < 5, "the slowest answer of a neighbour"
    bomb, talker = (next(one for one in lab.made if one.spec.name == name) for name in ("bomb", "talker"))
    assert bomb.stats()["pids"] <= 60
    assert sum(map(_size, talker.folder.glob("log*"))) < 4 << 20
    bomb.stop(0)
    assert not bomb.cgroup().directories()


def _size(log):
    """The bytes of a log, 0 for one that was just rotated away."""
    try:
        return log.stat().st_size
    except FileNotFoundError:
        return 0


def answers(lab, neighbour):
    """How long `ANSWERS` commands inside took, in seconds, sorted."""
    times = []
    for _ in range(ANSWERS):
        began = time.monotonic()
        an_exec(lab, neighbour)
        times.append(time.monotonic() - began)
    return sorted(times)


def test_ten_gigabytes_of_output_are_bounded_on_disk(lab):
    container = lab.make(
        "/bin/sh", "-c", "while :; do cat /bin/busybox; done", log_bytes=1 << 20, log_files=2
    )
    records.write(container.folder / "instance.json", {"spec": container.spec.to_record()})
    container.start(Edges())
    deadline = time.monotonic() + 20
    while not (container.folder / "log.1").exists():
        assert time.monotonic() < deadline, "waited for the log to be rotated"
        time.sleep(0.05)
    time.sleep(0.5)
    assert sum(one.stat().st_size for one in container.folder.glob("log*")) < 3 << 20
    assert container.stop(5) == ""


def test_repair_takes_what_nobody_lives_in_and_nothing_else(lab):
    from containers.repair import repair
    from host.linux.cgroup import Limits

    living = prepared(lab, 1, True)
    stray = lab.make("/bin/true", name="stray")
    stray.cgroup().create(Limits())
    held = lab.make("/bin/true", name="held")
    held.cgroup().create(Limits())
    gone = paths.run_dir(lab.home) / "gone"
    gone.mkdir(parents=True)
    (gone / "pid").write_text("1 2 3\n")
    with records.lock(held.folder / "lock"):
        said = repair(lab.home)
    assert said == ["cgroup of container stray", "run directory of container gone"]
    assert living.cgroup().directories()
    assert held.cgroup().directories()
    assert not stray.cgroup().directories()
    assert repair(lab.home) == ["cgroup of container held"]
