"""Faults around templates by the real command line: what changed is detected and told, the rest goes on."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import leaks
import pytest
from capabilities import need
from commandline import CommandLine, told

from host import paths
from host.linux.cgroup import Cgroup, Limits
from vmm import templates

pytestmark = pytest.mark.machine
DEVICES = ("--network", "none", "--memory", "128M", "--accel", "tcg")
RUN = ("run", "--vm", "--rm", *DEVICES)
_MIB = 1 << 20


@pytest.fixture(scope="module")
def vmm() -> Iterator[CommandLine]:
    """A home of its own with a template, on the big disk, where QEMU's own user can pass."""
    need("root", "qemu", "kernel", "guest-helper", "busybox")
    home = Path("/var/tmp", f"vmm-clone-faults-{os.getpid()}")
    there = CommandLine(home)
    try:
        there.ok(*RUN, "tiny", "true", timeout_s=300)
        yield there
    finally:
        there.run("rm", "-f", "--all")
        leaks.forget(home)
        subprocess.run(["rm", "-rf", "--one-file-system", home], check=False)


@pytest.fixture
def named(vmm: CommandLine) -> Iterator[str]:
    """A template with a name."""
    vmm.ok("template", "create", "named", "tiny", *DEVICES, timeout_s=120)
    yield "named"
    vmm.ok("template", "rm", "named")


def own(vmm: CommandLine) -> list[str]:
    """The templates that `vmm run` made for machines of these tests."""
    return [one.name for one in templates.every(vmm.home) if one.automatic]


@contextlib.contextmanager
def memory_dir_of(vmm: CommandLine, size_bytes: int) -> Iterator[Path]:
    """The home's templates in a memory file system of so many bytes; those that it has are out of sight."""
    where = templates.memory_dir(vmm.home)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "none", where], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", where], check=True)


def test_two_commands_that_make_one_name_one_builds_and_the_other_is_refused(vmm: CommandLine) -> None:
    line = vmm.argv("template", "create", "both", "tiny", *DEVICES)
    both = [
        subprocess.Popen(line, env=vmm.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in "12"
    ]
    said = sorted([(one.communicate(timeout=120), one.returncode) for one in both], key=lambda one: one[1])
    try:
        assert [status for _, status in said] == [0, 1]
        assert said[0][0][0] == "both\n"
        assert "there is one" in said[1][0][1]
        assert vmm.ok("run", "--vm", "--rm", "--from", "both", "echo", "hi") == "hi\n"
    finally:
        vmm.ok("template", "rm", "both")


def test_a_named_template_that_finds_no_room_leaves_nothing(vmm: CommandLine) -> None:
    with memory_dir_of(vmm, 64 * _MIB) as where, leaks.none(vmm.home):
        done = vmm.run("template", "create", "large", "tiny", *DEVICES)
        told(done, 1, "cannot make a template's memory", "it needs 128 MiB, less is free", "vmm template rm")
        assert [one.name for one in where.iterdir()] == [".home"]
        assert not (templates.root(vmm.home) / "large").exists()


def test_a_memory_file_system_that_is_full_already_is_told(vmm: CommandLine) -> None:
    with memory_dir_of(vmm, 1 * _MIB) as where, leaks.none(vmm.home):
        with contextlib.suppress(OSError), (where / "others").open("wb") as file:
            file.write(bytes(2 * _MIB))
        done = vmm.run("template", "create", "large", "tiny", *DEVICES)
        told(done, 1, "cannot make a template's memory", "it needs 128 MiB, less is free", "vmm template rm")
        assert [one.name for one in where.iterdir()] == ["others"]


def test_memory_that_fills_up_while_a_template_boots_is_told_and_leaves_nothing(vmm: CommandLine) -> None:
    with memory_dir_of(vmm, 132 * _MIB) as where, leaks.none(vmm.home):

        def fill() -> None:
            while not (where / "large.memory").exists():
                time.sleep(0.001)
            with contextlib.suppress(OSError), (where / "others").open("wb") as file:
                file.write(bytes(120 * _MIB))

        filler = threading.Thread(target=fill, daemon=True)
        filler.start()
        done = vmm.run("template", "create", "large", "tiny", *DEVICES, timeout_s=150)
        told(done, 1, "QEMU was killed by signal 7", "the file system of its memory is full")
        assert sorted(one.name for one in where.iterdir()) == [".home", "others"]
        assert not (templates.root(vmm.home) / "large").exists()


def test_a_base_disk_that_was_replaced_is_detected(vmm: CommandLine, named: str, tmp_path: Path) -> None:
    """Not only its date: another file system with other content lies at its place."""
    (before,) = own(vmm)
    base = Path(templates.backing(templates.load(vmm.home, named).disk)[0])
    raw, other = tmp_path / "raw", base.with_name("other")
    convert = ["qemu-img", "convert", "-f"]
    subprocess.run([*convert, "qcow2", "-O", "raw", base, raw], check=True)
    (tmp_path / "mark").write_text("the other disk\n")
    write = ["debugfs", "-w", "-R", f"write {tmp_path}/mark /mark", raw]
    subprocess.run(write, check=True, capture_output=True)
    subprocess.run([*convert, "raw", "-O", "qcow2", raw, other], check=True)
    os.chmod(other, 0o444)
    os.replace(other, base)
    told(vmm.run("run", "--vm", "--rm", "--from", named, "true"), 125, f"{base} changed", "vmm template rm")
    anew = vmm.run(*RUN, "tiny", "cat", "/mark", timeout_s=120)
    assert (anew.returncode, anew.stdout) == (0, "the other disk\n"), anew.stderr
    assert "freezing a template" in anew.stderr
    assert f"removed the template {before}: {base} changed since it was frozen" in anew.stderr
    assert own(vmm) != [before]


@contextlib.contextmanager
def another_qemu(vmm: CommandLine, folder: Path) -> Iterator[Path]:
    """QEMU's program at a place of its own, with the firmware and modules that it looks for beside it."""
    program = Path(shutil.which("qemu-system-x86_64") or "").resolve()
    (folder / "bin").mkdir()
    for beside in ("share", "lib"):
        (folder / beside).symlink_to(f"/usr/{beside}")
    for above in folder.parents:
        if above.stat().st_uid == os.geteuid() and above != Path("/"):
            above.chmod(above.stat().st_mode | 0o011)
    folder.chmod(0o755)
    copy, path = folder / "bin" / "qemu-system-x86_64", vmm.env["PATH"]
    shutil.copy(program, copy)
    vmm.env["PATH"] = f"{copy.parent}:{path}"
    try:
        yield copy
    finally:
        vmm.env["PATH"] = path


def test_a_qemu_that_was_upgraded_is_detected(vmm: CommandLine, tmp_path: Path) -> None:
    vmm.ok(*RUN, "tiny", "true", timeout_s=120)
    with another_qemu(vmm, tmp_path) as program:
        first = vmm.run(*RUN, "tiny", "echo", "one", timeout_s=120)
        assert (first.stdout, "freezing a template" in first.stderr) == ("one\n", True), first.stderr
        assert "freezing" not in vmm.run(*RUN, "tiny", "true").stderr
        vmm.ok("template", "create", "old", "tiny", *DEVICES, timeout_s=120)
        (before,) = [name for name in own(vmm) if str(program) in templates.load(vmm.home, name).files]
        upgraded = program.with_name("new")
        shutil.copy(program, upgraded)
        os.replace(upgraded, program)
        told(
            vmm.run("run", "--vm", "--rm", "--from", "old", "true"),
            125,
            f"{program} changed",
            "vmm template rm",
        )
        second = vmm.run(*RUN, "tiny", "echo", "two", timeout_s=120)
        assert (second.stdout, "freezing a template" in second.stderr) == ("two\n", True), second.stderr
        assert f"removed the template {before}: {program} changed since it was frozen" in second.stderr
        vmm.ok("template", "rm", "old")


def test_a_kernel_that_was_upgraded_is_another_template(vmm: CommandLine) -> None:
    vmm.ok(*RUN, "tiny", "true", timeout_s=120)
    kernel = (vmm.home / "cache" / "kernels" / "cloud" / "vmlinux").resolve()
    upgraded = kernel.with_name("new")
    shutil.copy(kernel, upgraded)
    os.replace(upgraded, kernel)
    done = vmm.run(*RUN, "tiny", "echo", "hi", timeout_s=120)
    assert (done.stdout, "freezing a template" in done.stderr) == ("hi\n", True), done.stderr
    assert "freezing" not in vmm.run(*RUN, "tiny", "true").stderr


def test_after_a_reboot_of_the_host_templates_are_stale(vmm: CommandLine, named: str) -> None:
    """What a boot takes: /dev/shm and /run."""
    vmm.ok(*RUN, "tiny", "true", timeout_s=120)
    leaks.forget(vmm.home)
    assert "the host was started anew since" in vmm.ok("template", "ls")
    told(
        vmm.run("run", "--vm", "--rm", "--from", named, "true"),
        125,
        "the host was started anew",
        "template create",
    )
    done = vmm.run(*RUN, "tiny", "echo", "hi", timeout_s=120)
    assert (done.returncode, done.stdout) == (0, "hi\n"), done.stderr
    assert "is made anew: its memory is gone" in done.stderr


def test_clones_go_on_when_their_template_goes(vmm: CommandLine, named: str) -> None:
    vmm.ok("run", "--vm", "-d", "--name", "upon", "--from", named, "sleep", "600")
    vmm.ok("run", "--vm", "-d", "--name", "free", *DEVICES, "tiny", "sleep", "600", timeout_s=120)
    try:
        told(vmm.run("template", "rm", named), 1, "disks stand on it", "vmm rm upon first")
        vmm.ok("template", "rm", *own(vmm))
        for name in ("upon", "free"):  # memory and disk that nobody has looked at yet
            assert vmm.ok("exec", name, "sh", "-c", "md5sum /bin/busybox; echo x >/x; cat /x").endswith("x\n")
    finally:
        vmm.run("rm", "-f", "upon", "free")


@pytest.mark.parametrize("form", ["named", "automatic"])
def test_qemu_killed_while_it_restores_is_told_and_the_template_stays(
    vmm: CommandLine,
    named: str,
    form: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from cli import main
    from vmm import clones

    vmm.ok(*RUN, "tiny", "true", timeout_s=120)
    monkeypatch.setenv("VMM_HOME", str(vmm.home))
    before, load = own(vmm), clones._load_state

    def killed(monitor, template):  # type: ignore[no-untyped-def]
        os.kill(int((paths.run_dir(vmm.home) / monitor.name / "pid").read_text()), signal.SIGKILL)
        load(monitor, template)

    monkeypatch.setattr(clones, "_load_state", killed)
    words = ("run", "--vm", "--rm", "--from", named, "true") if form == "named" else (*RUN, "tiny", "true")
    with leaks.none(vmm.home):
        assert main.main(list(words)) == 125
    said = capfd.readouterr().err
    assert "QEMU was killed by signal 9" in said
    assert "booting instead" not in said
    assert own(vmm) == before
    monkeypatch.undo()
    assert "freezing" not in vmm.run(*words).stderr


@contextlib.contextmanager
def cgroup() -> Iterator[Cgroup]:
    """A cgroup that counts memory; what ran in it is gone afterwards."""
    group = Cgroup(f"clone-faults-{os.getpid()}")
    group.create(Limits())
    try:
        yield group
    finally:
        group.remove()


def limit(group: Cgroup, size_bytes: int) -> None:
    file = "memory.limit_in_bytes" if group.layout.version == 1 else "memory.max"
    Path(str(group.directory("memory")), file).write_text(str(size_bytes))


def clone_in(vmm: CommandLine, group: Cgroup, name: str) -> tuple[subprocess.Popen[str], bool]:
    """A clone in the foreground, in the group from its first moment; and whether its command began."""
    line = vmm.argv(*RUN, "--name", name, "tiny", "sh", "-c", "echo up; exec sleep 600")
    words, pipe = ["sh", "-c", 'read go; exec "$@" </dev/null', "sh", *line], subprocess.PIPE
    one = subprocess.Popen(words, env=vmm.env, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    group.add(one.pid)
    assert one.stdin is not None
    assert one.stdout is not None
    one.stdin.write("go\n")
    one.stdin.flush()
    return one, one.stdout.readline() == "up\n"


@contextlib.contextmanager
def small_pages() -> Iterator[None]:
    """What is started in here, and its children, get no huge pages: prctl(2), PR_SET_THP_DISABLE."""
    prctl, disable_thp = ctypes.CDLL(None).prctl, 41
    prctl(disable_thp, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(disable_thp, 0, 0, 0, 0)


def test_out_of_memory_at_the_nth_clone_is_that_ones_end_alone(vmm: CommandLine) -> None:
    """The kernel ends the machine that comes up, not one that runs, which may hold more.

    There is room for 0.7 of one more: Python has its own, and QEMU not enough to see its guest up. Without
    huge pages: what nobody used of them the kernel takes back when memory is short, however much that is.
    """
    need("cgroup")
    vmm.ok(*RUN, "tiny", "true", timeout_s=120)
    with small_pages(), cgroup() as group:
        names, held = [f"n{number}" for number in range(4)], []
        running = []
        for name in names:
            one, up = clone_in(vmm, group, name)
            assert up
            time.sleep(0.5)
            running.append(one)
            held.append(group.stats()["anon_bytes"])
        told_now = group.stats()
        more = (held[-1] - held[0]) // (len(held) - 1)
        limit(group, told_now["memory_bytes"] - told_now.get("inactive_file_bytes", 0) + more * 7 // 10)
        last, up = clone_in(vmm, group, "last")
        said = last.communicate(timeout=60)
        told(subprocess.CompletedProcess([], last.returncode, *said), 125, "memory")
        assert not up
        assert [one.poll() for one in running] == [None] * len(running)
        assert set(vmm.ls()) == set(names)
        for name in names:
            assert vmm.ok("exec", name, "echo", "alive") == "alive\n"
        assert not (paths.run_dir(vmm.home) / "last").exists()
        for one in running:
            one.terminate()
            one.communicate(timeout=60)
    assert vmm.ls() == {}


def test_what_a_frozen_machine_was_born_with_cannot_be_asked_otherwise(vmm: CommandLine, named: str) -> None:
    clone = ("run", "--vm", "--rm", "--from", named)
    told(vmm.run(*clone, "--cpus", "2", "true"), 125, "--cpus", "its template has 1")
    told(vmm.run(*clone, "--driver", "libvirt", "true"), 125, "--driver", "its template has qemu")
    told(vmm.run(*clone, "-v", "/tmp:/there", "true"), 125, "-v", "make another template")
    assert vmm.ok(*clone, *DEVICES, "--driver", "qemu", "echo", "same") == "same\n"
