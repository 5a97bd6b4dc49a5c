"""Detached containers: they outlive their starter and their supervisor, and tell the truth afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from datetime import datetime
from pathlib import Path

import leaks
import pytest
from capabilities import need

from containers import logs, restarts, runtime
from containers.spec import Health, Mount
from host import paths, records
from host.edges import Edges
from host.errors import DeadlinePassed, WrongState
from host.exec_request import ExecRequest
from host.linux.cgroup import Limits
from host.stdio import Stdio


def start(lab, script, **wishes):
    """Start a shell script detached, with the record that the supervisor reads."""
    container = lab.make("/bin/sh", "-c", script, **wishes)
    records.write(container.folder / "instance.json", {"spec": container.spec.to_record()})
    container.start(Edges())
    return container


def until(condition, what, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.01)
    return found


def supervisors(home):
    """The pids of this home's supervisors."""
    found = []
    for entry in os.scandir("/proc"):
        try:
            words = Path(entry.path, "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"containers.supervisor" in words and str(home).encode() in words:
            found.append(int(entry.name))
    return found


def test_it_outlives_its_starter_and_its_status_is_kept(lab):
    container = lab.make("/bin/sh", "-c", "sleep 0.3; exit 5")
    records.write(container.folder / "instance.json", {"spec": container.spec.to_record()})
    pid = os.fork()
    if pid == 0:
        try:
            container.start(Edges())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert container.state() == "running"
    assert container.wait(20) == 5
    assert (container.state(), container.status()) == ("exited", 5)


def test_its_words_are_in_the_log_by_stream_and_time(lab):
    container = start(lab, "echo out; echo err >&2; sleep 0.1; printf half; sleep 0.1; echo way")
    container.wait(20)
    assert lab.logs(container, follow=True).count("out") == 1
    plain = lab.logs(container)
    assert sorted(plain.replace("half", "").split()) == ["err", "out", "way"]
    stamped = lab.logs(container, timestamps=True).splitlines()
    assert all(line[:2] == "20" and line[29] == "Z" for line in stamped if "way" not in line.split("half")[0])
    only = start(lab, "echo one; printf half; sleep 0.1; echo way", name="c2")
    only.wait(20)
    lab.logs(only, follow=True)
    assert lab.logs(only, tail=1) == "halfway\n"


def test_following_ends_with_the_container_and_misses_nothing(lab):
    container = start(lab, "for i in $(seq 200); do echo $i; done; sleep 0.3; echo last")
    lines = lab.logs(container, follow=True).split()
    assert lines == [str(n) for n in range(1, 201)] + ["last"]


def test_the_log_is_rotated_and_bounded(lab):
    script = (
        "i=0; while [ $i -lt 40 ]; do head -c 5000 /dev/zero | tr '\\0' x; echo $i; i=$((i+1)); "
        "sleep 0.005; done"
    )
    container = start(lab, script, log_bytes=50_000, log_files=3)
    container.wait(20)
    lab.logs(container, follow=True)
    files = sorted(container.folder.glob("log*"))
    assert [one.name for one in files] == ["log", "log.1", "log.2"]
    assert all(one.stat().st_size <= 60_000 for one in files)
    assert lab.logs(container).split()[-1].lstrip("x") == "39"


def test_kill_9_of_the_supervisor_leaves_it_running_and_the_next_one_adopts(lab):
    container = start(lab, "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done")
    first = until(lambda: supervisors(lab.home), "a supervisor")
    until(lambda: "3\n" in lab.logs(container), "some output")
    os.kill(first[0], signal.SIGKILL)
    until(lambda: not supervisors(lab.home), "the supervisor's death")
    time.sleep(0.2)
    assert container.state() == "running"
    other = start(lab, "sleep 30", name="c2")
    seen = lab.logs(container).split()[-1]
    until(lambda: int(lab.logs(container).split()[-1]) > int(seen) + 5, "output to flow again")
    numbers = [int(word) for word in lab.logs(container).split()]
    assert numbers == list(range(1, len(numbers) + 1)), "a FIFO loses nothing while nobody reads"
    assert len(supervisors(lab.home)) == 1
    other.stop(0)


def test_one_supervisor_serves_all_and_leaves_when_nothing_is_left(lab):
    made = [start(lab, "sleep 30", name=f"c{n}") for n in range(4)]
    assert len(supervisors(lab.home)) == 1
    for container in made:
        container.stop(0)
    until(lambda: not supervisors(lab.home), "the supervisor to leave")


def test_kill_9_of_its_first_process_reads_as_unknown_never_as_0(lab):
    container = start(lab, "sleep 30")
    os.kill(container.pid(), signal.SIGKILL)
    until(lambda: container.pid() is None, "its end")
    assert container.state() == "exited"
    assert container.status() is None


def test_a_first_process_that_cannot_finish_dying_is_no_container_that_runs(lab):
    """Its end waits until whoever else was inside is reaped, here by a parent that stands still."""
    container = start(lab, "sleep 30")
    outside = os.fork()
    if outside == 0:
        container.exec(ExecRequest(("sleep", "20")), Stdio(0, 1, 2))
        os._exit(0)
    try:
        until(lambda: [row for row in container.top() if row[-1] == "sleep 20"], "the command")
        os.kill(outside, signal.SIGSTOP)
        pid = container.pid()
        os.kill(pid, signal.SIGKILL)
        until(lambda: container.state() == "exited", "its end", timeout_s=5)
        assert os.path.exists(f"/proc/{pid}"), "it was reaped: the test shows nothing"
        with pytest.raises(WrongState, match="not running"):
            container.exec(ExecRequest(("true",)), Stdio(0, 1, 2))
    finally:
        os.kill(outside, signal.SIGKILL)
        os.waitpid(outside, 0)


def test_kill_reads_as_137(lab):
    container = start(lab, "sleep 30")
    container.kill(signal.SIGKILL)
    assert container.wait(20) == 137


def test_stop_asks_first_and_says_why_it_had_to_kill(lab):
    polite = start(lab, "trap 'exit 3' TERM; echo up; while :; do sleep 0.02; done")
    until(lambda: "up" in lab.logs(polite), "its trap")
    assert polite.stop(5) == ""
    assert polite.status() == 3
    deaf = start(lab, "trap '' TERM; echo up; while :; do sleep 0.02; done", name="deaf")
    until(lambda: "up" in lab.logs(deaf), "its trap")
    before = time.monotonic()
    assert "sh ignores SIGTERM" in deaf.stop(0.3)
    assert 0.3 <= time.monotonic() - before < 2
    assert deaf.status() == 137


def test_stop_signal_is_the_specs(lab):
    container = start(lab, "trap 'exit 8' USR1; echo up; while :; do sleep 0.02; done", stop_signal="SIGUSR1")
    until(lambda: "up" in lab.logs(container), "its trap")
    container.stop(5)
    assert container.status() == 8


def test_a_paused_one_stands_still_and_dies_when_told(lab):
    container = start(lab, "while :; do echo tick; sleep 0.01; done")
    until(lambda: "tick" in lab.logs(container), "output")
    container.pause()
    assert container.state() == "paused"
    time.sleep(0.1)
    seen = len(lab.logs(container))
    time.sleep(0.2)
    assert len(lab.logs(container)) == seen
    with pytest.raises(WrongState, match="paused"):
        lab.exec(container, "true")
    container.resume()
    until(lambda: len(lab.logs(container)) > seen, "output again")
    container.pause()
    container.kill(signal.SIGKILL)
    assert container.wait(20) == 137


def test_a_command_that_cannot_start_is_told_and_leaves_nothing(lab):
    container = lab.make("/bin/no-such")
    with leaks.none(lab.home, files=False), pytest.raises(Exception, match="not found") as caught:
        container.start(Edges())
    assert caught.value.exit_status == 127
    assert container.state() == "created"


def test_exec_enters_every_namespace_and_the_cgroup(lab):
    container = start(lab, "sleep 30", limits=Limits(pids=50))
    script = (
        "for k in mnt pid ipc uts net cgroup; do readlink /proc/self/ns/$k; readlink /proc/1/ns/$k; done; "
        "cat /proc/self/cgroup"
    )
    status, output = lab.exec(container, "sh", "-c", script)
    lines = output.splitlines()
    assert status == 0
    assert lines[:12:2] == lines[1:12:2]
    assert all(line.endswith(":/") for line in lines[12:] if ":name=" not in line)
    assert lab.exec(container, "sh", "-c", "exit 6")[0] == 6
    assert lab.exec(container, "no-such")[0] == 127
    assert lab.exec(container, "id", "-u", user="1000")[1] == "1000\n"
    assert lab.exec(container, "sh", "-c", "pwd; echo $X", cwd="/tmp", env=("X=1",))[1] == "/tmp\n1\n"


def test_exec_has_the_containers_rights_and_no_more(lab):
    container = start(lab, "sleep 30")
    wanted = "grep -E '^(Cap|NoNew|Seccomp:)' /proc/$P/status"
    mine = lab.exec(container, "sh", "-c", wanted.replace("$P", "self"))[1]
    init = lab.exec(container, "sh", "-c", wanted.replace("$P", "1"))[1]
    assert mine == init
    assert "CapEff:\t00000000800405fb" in mine


def test_wait_has_a_deadline(lab):
    container = start(lab, "sleep 30")
    with pytest.raises(DeadlinePassed, match="still runs"):
        container.wait(0.1)


def test_a_detached_terminal_is_held_by_the_helper(lab):
    container = start(lab, "tty; stty size; test -c /dev/console && echo console; sleep 0.2", tty=True)
    assert container.wait(20) == 0
    assert lab.logs(container, follow=True).split("\r\n")[:3] == ["/dev/pts/0", "24 80", "console"]


@pytest.mark.parametrize(
    ("policy", "status", "restarts_before", "again"),
    [
        ("no", 1, 0, False),
        ("on-failure", 1, 5, True),
        ("on-failure", 0, 0, False),
        ("on-failure", None, 0, True),
        ("on-failure:2", 1, 1, True),
        ("on-failure:2", 1, 2, False),
        ("always", 0, 9, True),
        ("unless-stopped", 0, 9, True),
    ],
)
def test_restart_policies(policy, status, restarts_before, again):
    assert restarts.wanted(policy, status, restarts_before) is again


def test_backoff_doubles_and_settles():
    backoff = restarts.Backoff()
    assert [backoff.next_s(0.1) for _ in range(4)] == [0.1, 0.2, 0.4, 0.8]
    assert backoff.next_s(60) == 0.1


def test_on_failure_restarts_that_often_and_not_more(lab):
    container = start(lab, "echo run; exit 1", restart="on-failure:2", ephemeral=False)
    until(lambda: lab.logs(container).count("run") == 3, "three runs")
    time.sleep(0.8)
    assert lab.logs(container).count("run") == 3
    assert restarts.count(container) == 2
    assert container.status() == 1


def test_the_users_stop_ends_always(lab):
    container = start(lab, "sleep 30", restart="always", ephemeral=False)
    container.stop(0)
    time.sleep(0.5)
    assert container.state() == "exited"


def test_a_restart_survives_the_supervisors_death(lab):
    container = start(lab, "echo run; sleep 0.4; exit 1", restart="always", ephemeral=False)
    first = until(lambda: supervisors(lab.home), "a supervisor")[0]
    os.kill(first, signal.SIGKILL)
    other = start(lab, "sleep 30", name="c2")  # any command brings the next supervisor
    until(lambda: lab.logs(container).count("run") >= 2, "a second run")
    other.stop(0)
    container.stop(0)


def test_health_turns_unhealthy_and_acts(lab):
    health = Health(("test", "-e", "/ok"), interval_s=0.1, retries=2, action="restart")
    container = start(lab, "echo run; touch /ok; sleep 30", health=health, ephemeral=False)
    state = container.run_dir / "health.json"
    until(lambda: state.exists() and records.read(state)["status"] == "healthy", "healthy")
    lab.exec(container, "rm", "/ok")
    until(lambda: lab.logs(container).count("run") == 2, "the restart")
    container.stop(0)


def test_a_health_check_that_hangs_is_a_failure(lab):
    health = Health(("sleep", "60"), interval_s=0.05, timeout_s=0.2, retries=1, action="none")
    container = start(lab, "sleep 30", health=health)
    state = container.run_dir / "health.json"
    until(lambda: state.exists() and records.read(state)["status"] == "unhealthy", "unhealthy")
    assert "no answer within 0.2 s" in records.read(state)["results"][-1]["output"]
    assert container.state() == "running"


def test_a_torn_record_is_cut_off_by_the_next_writer(tmp_path):

    path = tmp_path / "log"
    writer = logs.Writer(path, 1 << 20, 1)
    writer.append(1, b"whole\n")
    writer.close()
    with open(path, "ab") as file:
        file.write(logs.HEADER.pack(1, 0, 100) + b"torn")
    writer = logs.Writer(path, 1 << 20, 1)
    writer.append(1, b"next\n")
    writer.close()
    assert [one.data for one in logs.Reader(path).records()] == [b"whole\n", b"next\n"]


def test_nothing_is_left_after_remove(lab):
    with leaks.none(lab.home):
        container = start(lab, "echo hi; sleep 30")
        container.stop(0)
        container.remove()
        assert runtime.recorded(container.run_dir) is None
        (container.folder / "instance.json").unlink()
        container.folder.rmdir()
        until(lambda: not supervisors(lab.home), "the supervisor to leave")
        for name in ("supervisor.lock", "supervisor.bell"):
            (paths.run_dir(lab.home) / name).unlink()


def test_a_restart_that_was_due_is_not_lost_with_its_supervisor(lab):
    container = start(lab, "echo run; exit 1", restart="always", ephemeral=False)
    until(lambda: lab.logs(container).count("run") >= 4, "a pause that grew")
    for pid in supervisors(lab.home):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not supervisors(lab.home), "its death")
    seen = lab.logs(container).count("run")
    other = start(lab, "sleep 30", name="c2")
    until(lambda: lab.logs(container).count("run") > seen, "the next run")
    other.stop(0)
    container.stop(0)


def frozen_supervisor(home):
    """Stop the supervisor in its tracks; it sees what happens now all at once, later."""
    (pid,) = until(lambda: supervisors(home), "a supervisor")
    os.kill(pid, signal.SIGSTOP)
    return pid


def test_a_supervisor_that_is_late_takes_nothing_from_the_next_run(lab):
    container = start(lab, "while :; do echo on; sleep 0.05; done")
    until(lambda: lab.logs(container), "some output")
    late = frozen_supervisor(lab.home)
    container.stop(0)
    container.start(Edges())
    again = container.pid()
    os.kill(late, signal.SIGCONT)
    seen = len(lab.logs(container))
    until(lambda: len(lab.logs(container)) > seen + 30, "the next run's output in the log")
    assert container.pid() == again
    assert container.cgroup().pids()
    container.stop(0)
    assert container.status() in (137, 143)


def test_a_user_who_starts_it_before_its_restart_is_due_is_obeyed(lab):
    container = start(lab, "test -e /up && { echo up; sleep 60; }; exit 1", restart="always", ephemeral=False)
    until(lambda: restarts.count(container) >= 3, "a crash loop with a long pause")
    until(lambda: container.state() == "restarting", "a pause")
    (container.folder / "upper/up").touch()
    container.start(Edges())
    began = time.monotonic()
    until(lambda: "up" in lab.logs(container), "its log to be looked after at once")
    assert time.monotonic() - began < 0.4, "not only when the restart is due"


def test_a_command_left_inside_needs_nobody_outside(lab):
    container = start(lab, "sleep 60", time_offset_s=3600.0)
    request = ExecRequest(("sh", "-c", "(sleep 0.2; cat /proc/uptime > /tmp/up) & exec sleep 50"))
    assert container.exec_detached(request) == 0
    rows = until(lambda: [row for row in container.top() if row[-1] == "sleep 50"], "the command")
    with open(f"/proc/{rows[0][1]}/status") as file:
        parent = next(line.split()[1] for line in file if line.startswith("PPid"))
    assert int(parent) == container.pid(), "its parent is pid 1 inside"
    up = container.folder / "upper/tmp/up"
    until(lambda: up.exists() and up.read_text(), "what it wrote")
    assert float(up.read_text().split()[0]) > 3600 + time.monotonic() - 60, "in the time namespace too"
    assert container.exec_detached(ExecRequest(("no-such",))) == 127


def test_a_user_may_stop_what_is_about_to_start_again(lab):
    container = start(lab, "exit 1", restart="always")
    until(lambda: restarts.count(container) >= 2, "a crash loop")
    until(lambda: container.state() == "restarting", "a pause")
    container.stay_down()
    assert container.state() == "exited"
    seen = restarts.count(container)
    until(lambda: not (container.run_dir / "stdout").exists(), "the supervisor to give it up")
    assert restarts.count(container) <= seen + 1
    assert container.inspect()["restarts"] == restarts.count(container)


def test_the_supervisor_imports_nothing_from_the_users_directory(lab, tmp_path, monkeypatch):
    """A package that lies where the user stands would run with the engine's rights."""
    trap = f"open({str(tmp_path / 'sprung')!r}, 'w')\n"
    for name in ("containers/__init__.py", "host/__init__.py", "select.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(trap)
    monkeypatch.chdir(tmp_path)
    container = start(lab, "echo said; sleep 60")
    until(lambda: "said" in lab.logs(container), "its log")
    assert not (tmp_path / "sprung").exists()
    (pid,) = supervisors(lab.home)
    assert os.readlink(f"/proc/{pid}/cwd") == "/"


def append_often(writer, line):
    for _ in range(100):
        writer.append(1, line)


def test_a_full_disk_costs_the_log_lines_not_the_log(tmp_path):
    need("root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], check=True)
    try:
        path = tmp_path / "log"
        writer = logs.Writer(path, 1 << 20, 2)
        writer.append(1, b"first\n")
        (tmp_path / "rest").write_bytes(b"x" * 40_000)
        with pytest.raises(OSError, match="No space"):
            append_often(writer, b"y" * 3000 + b"\n")
        (tmp_path / "rest").unlink()
        writer.append(1, b"last\n")
        writer.close()
        reader = logs.Reader(path)
        lines = [record.data for record in reader.records()]
        reader.close()
        assert lines[0] == b"first\n"
        assert lines[-1] == b"last\n"
        assert set(lines[1:-1]) == {b"y" * 3000 + b"\n"}
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_logs_begin_at_a_moment(lab):
    container = start(lab, "echo early; sleep 0.5; echo late")
    container.wait(20)
    stamps = [line.split() for line in lab.logs(container, follow=True, timestamps=True).splitlines()]
    began = datetime.fromisoformat(stamps[0][0][:26] + "+00:00").timestamp()
    assert [words[1] for words in stamps] == ["early", "late"]
    assert lab.logs(container, since=began + 0.2) == "late\n"
    assert lab.logs(container, since=began + 0.2, tail=5) == "late\n"


@pytest.mark.parametrize(("spread", "out", "into"), [("private", 0, 0), ("slave", 0, 1), ("shared", 1, 1)])
def test_mounts_spread_as_asked_and_by_default_not_at_all(lab, tmp_path, spread, out, into):
    """mount_namespaces(7): out of the container, and into it."""
    shared = tmp_path / "shared"
    for name in ("", "inner", "outer"):
        (shared / name).mkdir()
    subprocess.run(["mount", "--bind", shared, shared], check=True)
    try:
        subprocess.run(["mount", "--make-shared", shared], check=True)
        mount = Mount("bind", "/data", str(shared), propagation=spread)
        script = "mount -t tmpfs x /data/inner; while ! test -e /data/go; do sleep 0.05; done; ls /data/outer"
        container = start(lab, script, privileged=True, mounts=(mount,))
        until(lambda: "/data/inner" in Path(f"/proc/{container.pid()}/mounts").read_text(), "its mount")
        assert os.path.ismount(shared / "inner") == bool(out)
        subprocess.run(["mount", "-t", "tmpfs", "x", shared / "outer"], check=True)
        (shared / "outer/seen").touch()
        (shared / "go").touch()
        container.wait(20)
        assert ("seen" in lab.logs(container, follow=True)) == bool(into)
    finally:
        for path in (shared / "inner", shared / "outer", shared):
            subprocess.run(["umount", "-R", path], check=False, capture_output=True)
