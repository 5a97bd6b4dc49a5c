"""Containers in the foreground: what is inside, what comes out, and that nothing stays."""

from __future__ import annotations

import os
import pty
import re
import signal
import time
from pathlib import Path

import leaks
import pytest

from containers import foreground, launch
from containers.mounts import Op
from containers.spec import Mount
from host.edges import Edges
from host.errors import Failure, Usage, WrongState
from host.stdio import Stdio


def test_output_and_exit_status_are_the_commands_own(lab):
    with leaks.none(lab.home):
        assert lab.shell("echo hi; exit 3") == (3, "hi\n")
        lab.made[-1].remove()
        lab.made[-1].folder.rmdir()


@pytest.mark.parametrize(
    ("argv", "status", "words"),
    [
        (("/bin/no-such",), 127, "not found"),
        (("no-such",), 127, "not found"),
        (("/etc/passwd",), 126, "Permission denied"),
        (("/bin",), 126, "Permission denied"),
    ],
)
@pytest.mark.parametrize("init", [False, True])
def test_a_command_that_cannot_run_is_126_or_127(lab, argv, status, words, init):
    got, output = lab.run(lab.make(*argv, init=init))
    assert got == status
    assert words in output


@pytest.mark.parametrize("init", [False, True])
@pytest.mark.parametrize("way", ["script", "script of a script", "program"])
def test_a_missing_interpreter_is_told_by_its_name(lab, tmp_path, way, init):
    """ "not found", said of a file that is there, sends its user looking at the wrong place."""
    tool = tmp_path / "tool"
    if way == "program":
        tool.write_bytes(Path("/bin/ls").read_bytes())  # dynamic: the image, a static busybox, has no linker
        missing = re.search(rb"/lib[0-9a-z]*/ld-[-_.0-9a-z]+", tool.read_bytes())[0].decode()
    else:
        missing = "/opt/no-such"
        (tmp_path / "middle").write_text(f"#! {missing} -x\n")
        tool.write_text("#!/mnt/middle\n" if way == "script of a script" else f"#! {missing} -x\n")
    for file in tmp_path.iterdir():
        file.chmod(0o755)
    mounts = (Mount("bind", "/mnt", str(tmp_path)),)
    status, output = lab.run(lab.make("/mnt/tool", mounts=mounts, init=init))
    assert (status, output) == (
        127,
        f"vmm: cannot run /mnt/tool: it is there, but its interpreter {missing} is not in the image\n",
    )
    path = ("PATH=/mnt:/bin",)
    assert lab.run(lab.make("tool", mounts=mounts, init=init, env=path, name="c2"))[0] == 127
    (tmp_path / "tool").write_text("#!/bin/sh\necho fine\n")
    assert lab.run(lab.make("/mnt/tool", mounts=mounts, init=init, name="c3")) == (0, "fine\n")


def test_a_signal_ends_it_with_128_and_its_number(lab):
    assert lab.run(lab.make("/bin/sh", "-c", "kill -9 $$", init=True))[0] == 137
    assert lab.shell("sleep 9 & kill -15 $!; wait $!")[0] == 143


def test_without_init_the_command_is_pid_1_and_with_it_the_reaper_is(lab):
    assert lab.shell("echo $$")[1] == "1\n"
    status, output = lab.shell("echo $$; cat /proc/1/comm", init=True)
    assert (status, output.split()[1]) == (0, "3") or output.split()[0] != "1"


def test_every_namespace_is_its_own(lab):
    kinds = ("mnt", "pid", "ipc", "uts", "net", "cgroup")
    inside = lab.shell("for k in mnt pid ipc uts net cgroup; do readlink /proc/self/ns/$k; done")[1].split()
    outside = [os.readlink(f"/proc/self/ns/{kind}") for kind in kinds]
    assert [word.split(":")[0] for word in inside] == list(kinds)
    assert not set(inside) & set(outside)


@pytest.mark.parametrize(
    ("field", "kind"), [("network", "net"), ("uts_namespace", "uts"), ("ipc_namespace", "ipc")]
)
def test_a_namespace_of_the_host_is_shared_when_asked(lab, field, kind):
    inside = lab.shell(f"readlink /proc/self/ns/{kind}", **{field: "host"})[1].strip()
    assert inside == os.readlink(f"/proc/self/ns/{kind}")


def test_it_sees_its_own_cgroup_as_the_root(lab):
    lines = lab.shell("cat /proc/self/cgroup")[1].splitlines()
    assert lines
    assert all(line.endswith(":/") for line in lines if ":name=" not in line)


def test_environment_directory_host_name_and_user_are_as_asked(lab):
    status, output = lab.shell(
        "echo $A:$HOME:$PATH; pwd; hostname; id -u; id -g; id -G",
        env=("A=x=y",), cwd="/tmp", hostname="box", user="ann",
    )  # fmt: skip
    assert status == 0
    first, *rest = output.split("\n")
    assert first.startswith("x=y:/home/ann:/usr/local/sbin:")
    assert rest[:5] == ["/tmp", "box", "1000", "1000", "1000 29"]


def test_a_missing_working_directory_is_made(lab):
    assert lab.shell("pwd", cwd="/srv/app")[1] == "/srv/app\n"


def test_stdin_is_given_only_when_asked(lab):
    assert lab.run(lab.make("/bin/cat"), stdin=b"abc") == (0, "abc")
    assert lab.shell("readlink /proc/self/fd/0")[1] == "/dev/null\n"


def test_no_descriptor_of_ours_leaks_in(lab):
    extra = os.open("/etc/hostname", os.O_RDONLY)
    os.set_inheritable(extra, True)
    try:
        assert lab.shell("ls /proc/self/fd")[1].split() == ["0", "1", "2", "3"]  # 3 is ls reading
    finally:
        os.close(extra)


def test_what_it_writes_stays_in_its_own_layer(lab, rootfs):
    container = lab.make("/bin/sh", "-c", "echo new > /etc/passwd; touch /made")
    assert lab.run(container)[0] == 0
    assert (container.folder / "upper/made").exists()
    assert not (rootfs / "made").exists()
    assert "root" in (rootfs / "etc/passwd").read_text()


def test_it_can_run_again_on_the_same_layer(lab):
    container = lab.make("/bin/sh", "-c", "cat /seen; echo again > /seen")
    assert lab.run(container)[0] == 0
    assert lab.run(container) == (0, "again\n")


def test_the_loopback_is_up(lab):
    assert "LOOPBACK,UP" in lab.shell("ip link show lo")[1]


def test_the_edges_are_passed_in_order(lab):
    edges = Edges()
    edges.mark("t0")
    lab.run(lab.make("/bin/true"), edges=edges)
    stamps = edges.since_ns()
    assert list(stamps) == ["t0", "t1", "t2", "t6", "t9"]
    assert sorted(stamps.values()) == list(stamps.values())


def test_a_signal_for_us_reaches_the_command(lab, in_background):
    container = lab.make(
        "/bin/sh", "-c", "trap 'echo got > /got; exit 7' TERM; echo up > /up; while :; do sleep 0.02; done"
    )
    pid = in_background(lambda: os._exit(lab.run(container)[0]))
    _wait_for(container.folder / "upper/up")
    os.kill(pid, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert (container.folder / "upper/got").read_text() == "got\n"


def test_the_third_interrupt_ends_a_pid_1_that_ignores_them(lab, in_background):
    container = lab.make("/bin/sh", "-c", "echo up > /up; sleep 60")
    pid = in_background(lambda: os._exit(lab.run(container)[0]))
    _wait_for(container.folder / "upper/up")
    for _ in range(3):
        os.kill(pid, signal.SIGINT)
        time.sleep(0.05)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 137


def test_kill_9_of_us_ends_the_container(lab, in_background):
    container = lab.make("/bin/sh", "-c", "echo up > /up; sleep 60")
    pid = in_background(lambda: lab.run(container))
    _wait_for(container.folder / "upper/up")
    inside = container.pid()
    assert inside
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    _until(lambda: container.pid() is None, "the container to die with us")
    container.remove()
    assert not container.cgroup().directories()


@pytest.mark.parametrize("moment", ["before the gate", "at the gate"])
def test_kill_9_of_us_during_the_start_leaves_no_child(lab, in_background, moment):
    container = lab.make("/bin/sleep", "60")

    def die(pid: int) -> None:
        (lab.home / "child").write_text(str(pid))
        os.kill(os.getpid(), signal.SIGKILL)

    def start() -> None:
        container.make_folders()
        if moment == "at the gate":
            container.before_go = die
            lab.run(container)
        else:
            launch._prepare = lambda _, ends, __: die(ends.pid())
            lab.run(container)

    pid = in_background(start)
    os.waitpid(pid, 0)
    child = int((lab.home / "child").read_text())
    _until(lambda: not _alive(child), "the child to end at its gate")


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_an_operation_that_fails_leaves_nothing_and_says_which(lab):
    """Every operation of the plan in turn is made to fail."""
    container = lab.make("/bin/true")
    ready = container.launch()
    container.make_folders()
    stdio = Stdio(0, 1, 2)
    broken = Op("mkdir", ("/no/such/place", 0o755))
    with leaks.none(lab.home):
        for number in range(len(ready.steps) + len(ready.plan.late_ops)):
            steps = [*ready.steps, *ready.plan.late_ops]
            steps[number] = broken
            early, late = tuple(steps[: len(ready.steps)]), tuple(steps[len(ready.steps) :])
            changed = ready._replace(steps=early, plan=ready.plan._replace(late_ops=late))
            with pytest.raises(Failure, match="No such file") as caught:
                foreground.plain(changed, stdio, Edges(), lambda pid: None)
            assert "at: mkdir -m 755 /no/such/place" in str(caught.value)
            container.clean()
            container.make_folders()


def test_a_cgroup_that_cannot_be_made_leaves_nothing(lab, monkeypatch):
    from host.linux.cgroup import Limits

    container = lab.make("/bin/true", limits=Limits(cpuset="4711"))
    with leaks.none(lab.home), pytest.raises(Failure, match="cpuset"):
        lab.run(container)
    assert container.pid() is None


def test_bad_words_are_one_error_and_leave_nothing(lab):
    for wishes, words in (
        ({"user": "nobody-here"}, "not in the image"),
        ({"user": "4294967295"}, "not an id"),
        ({"user": "-1"}, "not in the image"),
        ({"user": "1_0"}, "not in the image"),
        ({"user": "ann:"}, "UID:GID"),
        ({"cwd": "/proc/self/fd/3"}, "out of the container"),
        ({"cwd": "relative"}, "absolute"),
        ({"capabilities": ("FLY",)}, "FLY"),
        ({"mounts": (Mount("bind", "/proc/x", "/tmp"),)}, "/proc"),
        ({"mounts": (Mount("bind", "/a/../b", "/tmp"),)}, r"\.\."),
        ({"env": ("A=\0",)}, "NUL"),
    ):
        with leaks.none(lab.home, files=False), pytest.raises(Usage, match=words):
            lab.run(lab.make("/bin/true", **wishes))


def test_one_that_runs_is_not_started_twice(lab, in_background):
    container = lab.make("/bin/sh", "-c", "echo up > /up; sleep 60")
    in_background(lambda: lab.run(container))
    _wait_for(container.folder / "upper/up")
    with pytest.raises(WrongState, match="running already"):
        lab.run(container)


def test_threads_of_the_caller_are_no_hindrance(lab):
    import threading

    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        assert lab.shell("grep Threads: /proc/self/status")[1].split() == ["Threads:", "1"]
    finally:
        stop.set()
        thread.join()


def _on_pty(container, size=(30, 100), keys=b""):
    """Run on a terminal as a user would; what the terminal showed, and the status."""
    pid, master = pty.fork()
    if pid == 0:
        os._exit(container.run(Stdio(0, 1, 2, tty=True, interactive=True), Edges()))
    from containers import terminal

    terminal.resize(master, *size)
    shown = b""
    while True:
        if keys and b"ready" in shown:
            os.write(master, keys)
            keys = b""
        try:
            chunk = os.read(master, 4096)
        except OSError:
            break
        if not chunk:
            break
        shown += chunk
    os.close(master)
    return shown.decode(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_terminal_has_its_size_from_the_first_byte_and_is_the_console(lab):
    script = "stty size; tty; test -t 0 && test -c /dev/console && echo yes; exit 4"
    shown, status = _on_pty(lab.make("/bin/sh", "-c", f"sleep 0.3; {script}", tty=True))
    assert status == 4
    assert shown.split()[:4] == ["30", "100", "/dev/pts/0", "yes"]


def test_control_c_on_the_terminal_reaches_the_foreground_process(lab):
    shown, status = _on_pty(
        lab.make("/bin/sh", "-c", "trap 'echo caught; exit 9' INT; echo ready; sleep 30 & wait", tty=True),
        keys=b"\x03",
    )
    assert "caught" in shown
    assert status == 9


def _wait_for(path: Path) -> None:
    _until(path.exists, f"{path} to appear")


def _until(condition, what: str, timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.01)


def test_how_it_ended_is_kept_unless_it_goes_with_its_run(lab):
    container = lab.make("/bin/sh", "-c", "exit 4", ephemeral=False)
    assert lab.run(container)[0] == 4
    assert (container.state(), container.status()) == ("exited", 4)
    again = lab.make("/bin/nosuch", ephemeral=False)
    lab.run(again)
    assert (again.state(), again.status()) == ("exited", 127)
    gone = lab.make("/bin/true", name="c2")
    lab.run(gone)
    assert not gone.run_dir.exists()


def test_a_time_namespace_shifts_uptime_for_it_alone(lab):
    def uptime_s(text: str) -> float:
        return float(text.split(maxsplit=1)[0])

    status, output = lab.shell("cat /proc/uptime", time_offset_s=86_400.0)
    here = uptime_s(Path("/proc/uptime").read_text())
    assert status == 0
    assert 0 <= here + 86_400 - uptime_s(output) < 30
    assert os.readlink("/proc/self/ns/time") == os.readlink("/proc/self/ns/time_for_children")
    assert abs(uptime_s(lab.shell("cat /proc/uptime", name="c2")[1]) - here) < 30
