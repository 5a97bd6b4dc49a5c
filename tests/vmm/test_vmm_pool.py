"""Paused clones by the real command line: each for one claim, fresh in all, and no fault leaves one."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import leaks
import pytest
from capabilities import need
from commandline import CommandLine, told

from host import paths
from vmm import pool, refill, templates

pytestmark = pytest.mark.machine
DEVICES = ("--memory", "128M", "--accel", "tcg")
RUN = ("run", "--vm", "--rm", "--verbose")
FROM = (*RUN, "--from", "ready")
TAKEN = "a paused clone of the pool of ready"


@pytest.fixture(scope="module")
def vmm() -> Iterator[CommandLine]:
    """A home where QEMU's own user can pass; one template with two paused clones."""
    need("qemu", "kernel", "guest-helper", "busybox")
    home = Path("/var/tmp", f"vmm-pool-{os.getpid()}")
    there = CommandLine(home)
    try:
        there.ok("template", "create", "ready", "tiny", "--pool", "2", *DEVICES, timeout_s=300)
        yield there
    finally:
        there.run("rm", "-f", "--all")
        there.run("template", "rm", "--all")
        with leaks.none(home):
            leaks.forget(home)
        subprocess.run(["rm", "-rf", "--one-file-system", home], check=False)


@pytest.fixture(autouse=True)
def _no_more_than_the_pool(vmm: CommandLine, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test finds two paused clones, and leaves two and nothing else."""
    monkeypatch.setenv("VMM_HOME", str(vmm.home))
    full(vmm)
    yield
    full(vmm)
    await_true(lambda: qemus(vmm) == {one.pid for one in members(vmm)}, "only the pool's QEMUs run")
    assert {run.name for run in paths.run_dir(vmm.home).glob(".p-*")} == {
        one.run.name for one in members(vmm)
    }
    assert all(one.is_ready for one in members(vmm))
    assert vmm.ls() == {}


def template(vmm: CommandLine, name: str = "ready") -> templates.Template:
    return templates.load(vmm.home, name)


def members(vmm: CommandLine, name: str = "ready") -> list[pool.Member]:
    return pool.members(template(vmm, name))


def qemus(vmm: CommandLine) -> set[int | None]:
    """The pids of all QEMUs of the home."""
    mark, found = paths.run_dir(vmm.home).name, set[int | None]()
    for entry in os.scandir("/proc"):
        with contextlib.suppress(OSError):
            words = Path(entry.path, "cmdline").read_bytes()
            if entry.name.isdigit() and words.startswith(b"qemu-system") and mark.encode() in words:
                found.add(int(entry.name))
    return found


def await_true(true: Any, what: str, timeout_s: float = 20.0) -> None:
    until = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < until, f"never: {what}"
        time.sleep(0.05)


def full(vmm: CommandLine, name: str = "ready", count: int = 2) -> None:
    here = template(vmm, name)
    with contextlib.suppress(AssertionError):
        await_true(lambda: len(pool.ready(here)) == count, "said below")
    assert len(pool.ready(here)) == count, pool.facts(here)
    await_true(lambda: len(members(vmm, name)) == count, f"no more than {count} members of {name}")


def refilled(vmm: CommandLine) -> None:
    """What the next claim's process does, now."""
    refill.fill(vmm.home, "ready")


# ---- claimed ----


def test_a_run_takes_a_paused_clone_and_the_pool_is_filled_again(vmm: CommandLine) -> None:
    before = {one.id for one in members(vmm)}
    done = vmm.run(*FROM, "sh", "-c", "echo hi; echo ho >&2; exit 7")
    assert (done.returncode, done.stdout) == (7, "hi\n"), done.stderr
    assert TAKEN in done.stderr
    assert "ho\n" in done.stderr
    full(vmm)
    assert len(before & {one.id for one in members(vmm)}) == 1


def test_a_run_of_the_image_takes_one_of_the_same_hardware(vmm: CommandLine) -> None:
    done = vmm.run(*RUN, *DEVICES, "tiny", "echo", "hi")
    assert (done.stdout, TAKEN in done.stderr) == ("hi\n", True), done.stderr
    full(vmm)
    other = vmm.run(*RUN, "--memory", "96M", "--accel", "tcg", "tiny", "echo", "hi", timeout_s=120)
    assert (other.stdout, TAKEN in other.stderr) == ("hi\n", False), other.stderr
    assert TAKEN not in vmm.run(*RUN, "--boot", "microvm", *DEVICES, "tiny", "true").stderr
    vmm.ok("template", "rm", *[one.name for one in templates.every(vmm.home) if one.automatic])


def test_two_claims_never_get_one_member_and_nothing_is_alike(vmm: CommandLine) -> None:
    words = (
        *FROM,
        "sh",
        "-c",
        "hostname; head -c 16 /dev/urandom | md5sum; cat /proc/sys/kernel/random/uuid",
    )
    with ThreadPoolExecutor(10) as some:
        done = list(some.map(lambda _: vmm.run(*words, timeout_s=120), range(10)))
    assert all(one.returncode == 0 for one in done), [one.stderr for one in done]
    assert sum(TAKEN in one.stderr for one in done) >= 2
    for line in range(3):
        assert len({one.stdout.splitlines()[line] for one in done}) == 10


def test_its_clock_is_right_however_long_it_waited(vmm: CommandLine) -> None:
    time.sleep(3)
    done = vmm.run(*FROM, "date", "+%s")
    assert TAKEN in done.stderr
    assert abs(int(done.stdout) - time.time()) < 2


def test_it_is_reseeded_and_named_before_its_command_is_sent(
    vmm: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from host.edges import Edges
    from host.stdio import Stdio
    from instances import runs
    from instances.requests import RunRequest
    from vmm import frames
    from vmm.channel import Channel

    sent, send = list[int](), Channel.send

    def noted(self: Channel, type_: int, id_: int, payload: bytes = b"") -> None:
        sent.append(type_)
        send(self, type_, id_, payload)

    monkeypatch.setattr(Channel, "send", noted)
    null, edges = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC), Edges()
    request = RunRequest(image="tiny", kind="vm", rm=True, template="ready", command=("true",))
    assert runs.run(request, Stdio(null, null, null), edges) == 0
    os.close(null)
    assert TAKEN in edges.way
    assert sent[:5] == [frames.HELLO, frames.RESEED, frames.TIME, frames.HOSTNAME, frames.EXEC]


def test_one_that_runs_on_is_a_machine_like_any_other(vmm: CommandLine) -> None:
    vmm.ok(*FROM[:2], "-d", "--name", "kept", "--from", "ready", "sh", "-c", "echo said; sleep 600")
    try:
        assert vmm.ls()["kept"]["state"] == "running"
        await_true(lambda: vmm.ok("logs", "kept") == "said\n", "its words")
        vmm.ok("exec", "kept", "sh", "-c", "echo mine >/mine; sync")
        vmm.ok("pause", "kept")
        vmm.ok("resume", "kept")
        vmm.ok("snapshot", "create", "kept", "one", timeout_s=120)
        vmm.ok("stop", "-t", "5", "kept")
        vmm.ok("start", "kept", timeout_s=120)
        assert vmm.ok("exec", "kept", "cat", "/mine") == "mine\n"
    finally:
        vmm.run("rm", "-f", "kept")


def test_the_template_goes_although_a_machine_of_its_pool_runs(vmm: CommandLine) -> None:
    """A member in command mode stands on the image alone."""
    vmm.ok(
        "template",
        "create",
        "going",
        "tiny",
        "--pool",
        "1",
        "--memory",
        "96M",
        "--accel",
        "tcg",
        timeout_s=120,
    )
    vmm.ok("run", "--vm", "-d", "--name", "stays", "--from", "going", "sleep", "600")
    try:
        full(vmm, "going", 1)
        vmm.ok("template", "rm", "going")
        assert vmm.ok("exec", "stays", "sh", "-c", "md5sum /bin/busybox; echo x >/x; cat /x").endswith("x\n")
    finally:
        vmm.run("rm", "-f", "stays")


def test_its_ports_are_forwarded(vmm: CommandLine) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.listen()
        told(vmm.run(*FROM, "-p", f"127.0.0.1:{port}:80", "true"), 125, str(port))
        full(vmm)
    serve = ("sh", "-c", "echo hello >/index.html; httpd -f -p 80 -h /")
    vmm.ok("run", "--vm", "-d", "--name", "web", "-p", f"127.0.0.1:{port}:80", "--from", "ready", *serve)
    try:
        await_true(lambda: answer(port).endswith(b"hello\n"), "an answer at its port")
    finally:
        vmm.run("rm", "-f", "web")


def answer(port: int) -> bytes:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 2) as line:
        line.settimeout(2)
        line.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return b"".join(iter(lambda: line.recv(4096), b""))
    return b""


# ---- while it waits ----


def test_a_paused_clone_takes_no_processor_and_its_memory_is_told(vmm: CommandLine) -> None:
    time.sleep(1)
    before = [worked_ns(one.pid) for one in members(vmm)]
    time.sleep(4)
    for one, earlier in zip(members(vmm), before, strict=True):
        # QEMU's user network looks once a second whether it has anything to do
        assert worked_ns(one.pid) - earlier < 4e9 / 2000
    (row,) = [
        one for one in json.loads(vmm.ok("template", "ls", "--json"))["templates"] if one["name"] == "ready"
    ]
    assert (row["pool"]["wanted"], row["pool"]["ready"], row["pool"]["trouble"]) == (2, 2, "")
    held = [one["memory_bytes"] for one in row["pool"]["members"]]
    assert all(4 << 20 < one < 64 << 20 for one in held), held
    assert "2 of 2" in vmm.ok("template", "ls")
    use = {one["what"]: one for one in json.loads(vmm.ok("df", "--json"))["uses"]}
    assert use["their paused clones (RAM)"]["number"] == 2
    assert abs(use["their paused clones (RAM)"]["allocated_bytes"] - sum(held)) < 4 << 20


def worked_ns(pid: int | None) -> int:
    """Time on a processor of all its threads (proc(5), schedstat)."""
    return sum(int(one.read_text().split()[0]) for one in Path(f"/proc/{pid}/task").glob("*/schedstat"))


# ---- faults ----


def test_a_killed_command_takes_its_machine_along(vmm: CommandLine) -> None:
    waiting = {one.pid for one in members(vmm)}
    with subprocess.Popen(vmm.argv(*FROM, "--name", "gone", "sleep", "600"), env=vmm.env) as run:
        await_true(lambda: "gone" in vmm.ls() and vmm.ls()["gone"]["state"] == "running", "the machine")
        full(vmm)
        (taken,) = waiting - {one.pid for one in members(vmm)}
        assert taken in qemus(vmm)
        run.kill()
    await_true(lambda: taken not in qemus(vmm), "the end of its QEMU", 2.0)


@pytest.mark.parametrize("words", [FROM, (*FROM[:2], "-d", "--rm", "--from", "ready")], ids=["run", "run -d"])
def test_commands_killed_at_any_moment_leave_nothing(vmm: CommandLine, words: tuple[str, ...]) -> None:
    chance = random.Random(7)
    for _ in range(8):
        full(vmm)
        null = subprocess.DEVNULL
        with subprocess.Popen(vmm.argv(*words, "true"), env=vmm.env, stdout=null, stderr=null) as run:
            time.sleep(chance.uniform(0.1, 0.4))
            run.kill()
        refilled(vmm)
    await_true(lambda: not vmm.ls(), "no machine")


def test_a_refiller_killed_at_any_moment_leaves_nothing(vmm: CommandLine) -> None:
    chance = random.Random(11)
    for _ in range(10):
        for one in pool.ready(template(vmm)):
            pool.discard(one)
        words = [sys.executable, "-m", "vmm.refill", str(vmm.home), "ready"]
        with subprocess.Popen(words, env=vmm.env) as filling:
            time.sleep(chance.uniform(0.05, 0.7))
            filling.kill()
        left = {one.pid for one in pool.ready(template(vmm))}
        vmm.ok("template", "ls")
        await_true(lambda kept=left: qemus(vmm) <= kept, "the end of what was half made", 5.0)
        assert {one.pid for one in members(vmm)} <= left
    refilled(vmm)


def test_a_killed_member_costs_nobody_anything(vmm: CommandLine) -> None:
    for one in members(vmm):
        assert one.pid is not None
        os.kill(one.pid, signal.SIGKILL)
    await_true(lambda: not qemus(vmm), "their end")
    done = vmm.run(*FROM, "echo", "hi", timeout_s=120)
    assert (done.returncode, done.stdout) == (0, "hi\n"), done.stderr
    assert "the pool of ready was empty" in done.stderr


def test_a_member_that_hangs_is_let_go(vmm: CommandLine) -> None:
    first, *_ = members(vmm)
    assert first.pid is not None
    os.kill(first.pid, signal.SIGSTOP)
    done = vmm.run(*FROM, "echo", "hi")
    assert (done.returncode, done.stdout) == (0, "hi\n"), done.stderr
    assert first.id not in {one.id for one in members(vmm)}


def test_a_template_that_changed_ends_its_pool(vmm: CommandLine) -> None:
    vmm.ok(
        "template", "create", "bad", "tiny", "--pool", "1", "--memory", "96M", "--accel", "tcg", timeout_s=120
    )
    for remedy in (("run", "--vm", "--rm", "--from", "bad", "true"), ("template", "ls")):
        refill.fill(vmm.home, "bad")
        full(vmm, "bad", 1)
        with template(vmm, "bad").state.open("ab") as file:
            file.write(b"\0")
        assert "changed since it was frozen" in (done := vmm.run(*remedy)).stderr + done.stdout
        assert members(vmm, "bad") == []
        os.truncate(template(vmm, "bad").state, template(vmm, "bad").files["state"][0])
        os.utime(template(vmm, "bad").state, ns=(0, template(vmm, "bad").files["state"][1]))
    vmm.ok("template", "rm", "bad")


def test_after_a_reboot_of_the_host_nothing_of_it_is_left(vmm: CommandLine) -> None:
    vmm.ok(
        "template", "create", "old", "tiny", "--pool", "1", "--memory", "96M", "--accel", "tcg", timeout_s=120
    )
    (one,) = members(vmm, "old")
    assert one.pid is not None
    os.kill(one.pid, signal.SIGKILL)
    await_true(lambda: one.pid is None, "its end")
    shutil.rmtree(one.run)
    template(vmm, "old").memory.unlink()
    vmm.ok("prune", "-f")
    assert members(vmm, "old") == []
    told(vmm.run("run", "--vm", "--rm", "--from", "old", "true"), 125, "its memory is gone")
    vmm.ok("template", "rm", "old")


def test_a_host_without_memory_for_it_says_so_once(vmm: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refill, "_BESIDE_BYTES", 1 << 50)
    pool.discard(members(vmm)[0])
    refilled(vmm)
    assert len(members(vmm)) == 1
    known = json.loads(vmm.ok("template", "inspect", "ready"))["templates"][0]["pool"]
    assert "the host has no memory for one more" in known["trouble"]
    assert "1 of 2 (see inspect)" in vmm.ok("template", "ls")
    assert vmm.run(*FROM, "echo", "hi").stdout == "hi\n"
    full(vmm)  # it is tried again after each claim
    assert pool.wish(template(vmm)).trouble == ""


def test_a_full_disk_is_told_and_hinders_no_run(vmm: CommandLine) -> None:
    need("root")
    where = template(vmm).folder / "pool"
    for one in members(vmm):
        pool.discard(one)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", where], check=True)
    try:
        refilled(vmm)
        assert "No space left" in pool.wish(template(vmm)).trouble
        assert members(vmm) == []
        assert vmm.run(*FROM, "echo", "hi").stdout == "hi\n"
        await_true(lambda: not qemus(vmm), "its end")
        time.sleep(1)
    finally:
        await_true(
            lambda: subprocess.run(["umount", where], check=False).returncode == 0, "nobody looks there"
        )
    refilled(vmm)


def test_a_removed_template_takes_its_paused_clones_along(vmm: CommandLine) -> None:
    vmm.ok(
        "template",
        "create",
        "brief",
        "tiny",
        "--pool",
        "2",
        "--memory",
        "96M",
        "--accel",
        "tcg",
        timeout_s=120,
    )
    there = members(vmm, "brief")
    assert len(there) == 2
    vmm.ok("template", "rm", "brief")
    assert not any(one.run.exists() or one.folder.exists() for one in there)
    refill.fill(vmm.home, "brief")
    assert not list(templates.root(vmm.home).glob(".*.pool")) or template(vmm)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--pool", "0"), "cannot keep a pool of 0"),
        (("--pool", "-1"), "cannot keep a pool of -1"),
        (("--pool", "100000"), "it has 1 to 64 paused clones"),
        (("--pool", "two"), "invalid int value: 'two'"),
    ],
)
def test_a_pool_of_another_size_is_refused(vmm: CommandLine, words: tuple[str, ...], why: str) -> None:
    done = vmm.run("template", "create", "none", "tiny", *words)
    assert done.returncode == 2, done
    assert why in done.stderr
    assert "none" not in vmm.ok("template", "ls", "-q").split()


def test_a_pool_grows_shrinks_and_ends(vmm: CommandLine) -> None:
    vmm.ok("template", "create", "sized", "tiny", "--network", "none", *DEVICES, timeout_s=120)
    try:
        for count in (1, 3, 2):
            vmm.ok("template", "pool", "sized", str(count))
            assert len(pool.ready(template(vmm, "sized"))) == len(members(vmm, "sized")) == count
        assert "a paused clone of the pool of sized" in vmm.run(*RUN, "--from", "sized", "true").stderr
        await_true(lambda: len(pool.ready(template(vmm, "sized"))) == 2, "it is filled to its new size")
        vmm.ok("template", "pool", "sized", "0")
        assert (members(vmm, "sized"), pool.wish(template(vmm, "sized")).wanted) == ([], 0)
        assert "a clone of the template sized" in vmm.run(*RUN, "--from", "sized", "true").stderr
        told(vmm.run("template", "pool", "sized", "65"), 2, "1 to 64 paused clones", "hint:")
        told(vmm.run("template", "pool", "nosuch", "1"), 1, "no template 'nosuch'", "hint:")
    finally:
        vmm.ok("template", "rm", "sized")


def test_what_a_killed_resize_left_is_put_right_by_the_next_filling(vmm: CommandLine) -> None:
    wish = pool.wish(template(vmm))
    pool.note(vmm.home, template(vmm), wish._replace(wanted=1))
    refilled(vmm)
    assert len(members(vmm)) == 1
    pool.note(vmm.home, template(vmm), wish)
    refilled(vmm)


def test_libvirts_machines_have_no_pool(vmm: CommandLine) -> None:
    done = vmm.run("template", "create", "none", "tiny", "--driver", "libvirt", "--pool", "1", *DEVICES)
    told(done, 1, "cannot keep a pool of none")
    assert "none" not in vmm.ok("template", "ls", "-q").split()


def test_a_running_machine_can_be_frozen_with_a_pool(vmm: CommandLine) -> None:
    vmm.ok("run", "--vm", "-d", "--name", "source", "--from", "ready", "sleep", "600")
    try:
        vmm.ok("exec", "source", "sh", "-c", "echo frozen >/tmp/it")
        vmm.ok("template", "create", "seen", "source", "--pool", "1", timeout_s=120)
        done = vmm.run(*RUN, "--from", "seen", "cat", "/tmp/it")
        assert (done.stdout, "pool of seen" in done.stderr) == ("frozen\n", True), done.stderr
        full(vmm, "seen", 1)
    finally:
        vmm.run("rm", "-f", "source")
        vmm.run("template", "rm", "seen")
