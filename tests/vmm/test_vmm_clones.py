"""Clones of a template: fast, no two alike, none sees another's writes; every fault of a template is told."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import leaks
import pytest
from capabilities import need

from cli import verbose
from host import commands, paths
from host.edges import Edges
from host.errors import BadData, DeadlinePassed
from host.stdio import Stdio
from instances import repair, runs
from instances.requests import RunRequest
from vmm import admission, freeze, holes, homeless, process, templates, usage
from vmm.monitor import Monitor

pytestmark = pytest.mark.machine
TINY = RunRequest(image="tiny", kind="vm", rm=True, network="none", memory_bytes=128 << 20, accel="tcg")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One home for the module: kernel, image and template are made once."""
    need("qemu", "kernel", "guest-helper", "busybox")
    where = tmp_path_factory.mktemp("clones") / "home"
    for above in where.parents:  # QEMU drops to its own user, who must reach its files
        if above.stat().st_uid == os.geteuid() and above != Path("/"):
            above.chmod(above.stat().st_mode | 0o011)
    before = os.environ.get("VMM_HOME")
    os.environ["VMM_HOME"] = str(where)
    assert said("true")[0] == 0
    yield where
    if before is None:
        del os.environ["VMM_HOME"]
    else:
        os.environ["VMM_HOME"] = before
    shutil.rmtree(templates.memory_dir(where), ignore_errors=True)
    shutil.rmtree(paths.run_dir(where), ignore_errors=True)


def said(*command: str, request: RunRequest = TINY, edges: Edges | None = None) -> tuple[int, str]:
    """The status and the output of a command in a new machine."""
    read_end, write_end = os.pipe()
    null = os.open(os.devnull, os.O_RDWR)
    try:
        stdio = Stdio(null, write_end, write_end)
        status = runs.run(request._replace(command=command), stdio, edges or Edges())
        os.close(write_end)
        write_end = -1
        with os.fdopen(read_end, "rb", closefd=False) as file:
            return status, file.read().decode()
    finally:
        for fd in (read_end, null, *((write_end,) if write_end >= 0 else ())):
            os.close(fd)


def only(home: Path) -> templates.Template:
    """The template that `vmm run` made."""
    (found,) = [one for one in templates.every(home) if one.automatic and one.memory_bytes == 128 << 20]
    return found


def vmm(*words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "cli.main", *words]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)


def test_a_second_run_is_a_clone_and_much_faster(home: Path) -> None:
    cold, warm = Edges(), Edges()
    assert said("echo", "hi", request=TINY._replace(boot="microvm"), edges=cold) == (0, "hi\n")
    assert said("echo", "hi", edges=warm) == (0, "hi\n")
    assert "t5" in cold.stamps_ns
    assert "t5" not in warm.stamps_ns  # no kernel started
    assert warm.since_ns()["t8"] < 0.5 * cold.since_ns()["t8"]


def test_a_clone_waits_until_there_is_a_place_among_those_that_come_up(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VMM_BOOT_TIMEOUT_S", "0.3")
    taken = [admission.take(paths.run_dir(home), 1) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        with pytest.raises(DeadlinePassed, match="yet another machine"):
            said("true")
    finally:
        for fd in taken:
            os.close(fd)


def test_the_status_and_the_words_of_the_command(home: Path) -> None:
    assert said("sh", "-c", "echo $X; exit 7", request=TINY._replace(env=(("X", "one"),))) == (7, "one\n")
    status, words = said("nosuch")
    assert (status, words) == (127, "vmm: cannot execute nosuch: No such file or directory\n")
    nowhere = vmm("run", "-d", "--rm", "--vm", "--network", "none", "--memory", "128M", "tiny", "nosuch")
    assert (nowhere.returncode, "No such file" in nowhere.stderr) == (127, True)


def test_the_first_command_takes_the_process_that_was_frozen_waiting(home: Path) -> None:
    """One with a terminal cannot, and the one that waited is gone: there is pid 1, and the command."""
    look = ("tiny", "sh", "-c", "echo $$; ps | grep -c '[/]init'")
    waited, inits = said(*look[1:])[1].split()
    flags = ("--vm", "--rm", "--network", "none", "--memory", "128M", "--accel", "tcg")
    made, inits_beside_it = vmm("run", *flags, "-t", *look).stdout.split()
    assert int(waited) < int(made)
    assert (inits, inits_beside_it) == ("1", "1")


def test_the_process_that_waited_is_as_any_other(home: Path) -> None:
    request = TINY._replace(user="7:8", workdir="/usr", env=(("X", "one"),))
    status, words = said("sh", "-c", "id; pwd; echo $X; cat; ls -l /proc/self/fd; exit 3", request=request)
    assert status == 3
    first, *rest = words.splitlines()
    assert first == "uid=7 gid=8"
    assert rest[:2] == ["/usr", "one"]
    assert len([line for line in rest if " -> " in line]) == 3


def test_a_clones_kernel_has_chosen_its_clock_and_does_nothing_ahead(home: Path) -> None:
    """What Linux puts off at boot was done before the freeze, or each clone would begin with it."""
    clock = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
    ahead = ("/proc/sys/vm/compaction_proactiveness", "/sys/block/vda/queue/wbt_lat_usec")
    assert said("cat", clock, *ahead) == (0, "tsc\n0\n0\n")


def test_a_guest_is_frozen_awake(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clone has no idle processor to start again, and nobody to wake."""
    worked_ns: list[int] = []
    save = freeze.save_to

    def watched(monitor: Monitor, path: Path) -> None:
        pid = process.living(templates.builder_run(home, path.parent.name) / "pid")
        assert pid is not None
        before_ns = usage.cpu_ns(pid)
        time.sleep(0.2)
        worked_ns.append(usage.cpu_ns(pid) - before_ns)
        save(monitor, path)

    monkeypatch.setattr(freeze, "save_to", watched)
    assert said("true", request=TINY._replace(memory_bytes=144 << 20))[0] == 0
    (made,) = [one for one in templates.every(home) if one.memory_bytes == 144 << 20]
    templates.remove(home, made.name)
    assert worked_ns[0] > 100_000_000


def test_a_clone_on_the_user_network_knows_its_name_server_and_address(home: Path) -> None:
    """Frozen in: a file written anew would cost each clone 10 ms."""
    request = TINY._replace(network="user")
    for _ in range(2):
        told = said("sh", "-c", "cat /etc/resolv.conf; ip -4 addr", request=request)[1]
        assert "nameserver 10.0.2.3\n" in told
        assert "10.0.2.15/24" in told
    for one in templates.every(home):
        if one.memory_bytes == 128 << 20 and one.spec["nics"]:
            templates.remove(home, one.name)


def test_twenty_clones_are_not_alike(home: Path) -> None:
    """Host name, random bytes, boot id and clock: all were frozen once, and none may be shared."""
    script = "hostname; head -c 16 /dev/urandom | od -An -tx1; cat /proc/sys/kernel/random/boot_id; date +%s"
    # a name that is made up may be that of a machine which is no more (1 in 20 of such tests)
    asked = [TINY._replace(name=f"alike-{number}") for number in range(20)]
    told = [said("sh", "-c", script, request=one)[1].split("\n") for one in asked]
    for position, what in enumerate(("host name", "random bytes", "boot id")):
        assert len({lines[position] for lines in told}) == 20, what
    assert all(abs(int(lines[3]) - time.time()) < 60 for lines in told)


def test_a_clone_is_reseeded_before_its_command_is_sent(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vmm import frames
    from vmm.channel import Channel

    sent: list[int] = []
    send = Channel.send
    monkeypatch.setattr(
        Channel, "send", lambda self, type_, *rest: (sent.append(type_), send(self, type_, *rest))[1]
    )
    assert said("true")[0] == 0
    assert sent.index(frames.RESEED) < sent.index(frames.EXEC)
    assert sent.index(frames.TIME) < sent.index(frames.EXEC)


@pytest.mark.timeout(600)
def test_no_clone_of_fifty_sees_anothers_writes(home: Path) -> None:
    """Each clone finds memory (a tmpfs) and disk as frozen, and writes its own pattern into both; five at
    once.
    """
    template = only(home)
    before = content(template.memory), content(template.disk)
    script = "ls /dev/shm/mark /mark 2>&1 | grep -c 'No such'; head -c 3000000 /dev/urandom >/dev/shm/mark; "
    script += "cp /dev/shm/mark /mark; sync; cmp /dev/shm/mark /mark && md5sum </mark"
    line = (
        "run",
        "--vm",
        "--rm",
        "--network",
        "none",
        "--memory",
        "128M",
        "--accel",
        "tcg",
        "tiny",
        "sh",
        "-c",
    )
    with ThreadPoolExecutor(5) as threads:
        told = list(threads.map(lambda _: vmm(*line, script), range(50)))
    assert {(one.returncode, one.stdout.split("\n")[0]) for one in told} == {(0, "2")}
    assert len({one.stdout.split("\n")[1] for one in told}) == 50
    assert (content(template.memory), content(template.disk)) == before
    assert templates.damage(template) == ""


def content(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_a_state_that_qemu_refuses_is_told_and_the_machine_boots(
    home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    state = only(home).state
    told, whole = state.stat(), state.read_bytes()
    state.write_bytes(b"nonsense" + whole[8:])
    os.utime(state, ns=(told.st_atime_ns, told.st_mtime_ns))  # so that no look at the file finds it
    edges = Edges()
    assert said("echo", "booted", edges=edges) == (0, "booted\n")
    assert "does not take the template's state, booting instead" in capfd.readouterr().err
    assert "t5" in edges.stamps_ns  # a kernel started
    assert edges.way.startswith("a boot by microvm: QEMU did not take")
    assert said("echo", "anew") == (0, "anew\n")  # frozen again by this run
    assert only(home).state.read_bytes()[:4] == b"QEVM"


def test_a_template_of_another_qemu_or_base_is_of_no_use(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    template = only(home)
    outside = [path for path in template.files if path.startswith("/")]
    assert any(Path(path).name.startswith("qemu-system") for path in outside)
    assert str(templates.backing(template.disk)[0]) in outside
    for path in outside:
        older = {**template.files, path: (template.files[path][0] - 1, template.files[path][1])}
        assert templates.damage(template._replace(files=older)) == f"{path} changed since it was frozen"


def test_templates_of_run_itself_are_limited_and_the_longest_unused_goes(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    old = only(home).name
    monkeypatch.setenv("VMM_TEMPLATE_MEMORY_MIB", "16")  # less than one holds
    try:
        assert said("true", request=TINY._replace(memory_bytes=112 << 20)) == (0, "")
        assert f"removed the template {old}: templates hold more than 16 MiB" in capfd.readouterr().err
        assert [one.memory_bytes for one in templates.every(home)] == [112 << 20]  # the newest stays
        assert [one.name for one in templates.memory_dir(home).glob("*.memory")] == [
            f"{one.name}.memory" for one in templates.every(home)
        ]
    finally:
        monkeypatch.delenv("VMM_TEMPLATE_MEMORY_MIB")
        for one in templates.every(home):
            templates.remove(home, one.name)
        assert said("true") == (0, "")


def test_the_memory_of_a_home_that_was_removed_goes_and_that_of_others_stays(
    home: Path, tmp_path: Path
) -> None:
    """`rm -r $VMM_HOME` leaves what lies in /dev/shm, where it would take RAM until the next boot."""
    removed, there, unmounted = (tmp_path / name for name in ("removed", "there", "unmounted"))
    folders = {}
    for one in (removed, there, unmounted):
        one.mkdir()
        homeless.note(one)
        folders[one] = templates.memory_dir(one)
        (folders[one] / "x.memory").write_bytes(bytes(4096))
    mark = folders[unmounted] / ".home"
    mark.write_text(f"{unmounted.stat().st_dev + 1} {unmounted}")  # of a disk that is not here just now
    removed.rmdir()
    unmounted.rmdir()
    try:
        assert homeless.sweep(home) == [str(folders[removed])]
        assert {one: folder.exists() for one, folder in folders.items()} == {
            removed: False, there: True, unmounted: True
        }  # fmt: skip
        assert only(home).memory.exists()
    finally:
        for folder in folders.values():
            shutil.rmtree(folder, ignore_errors=True)


def test_a_disk_cut_to_nothing_is_no_qcow2(tmp_path: Path) -> None:
    (tmp_path / "disk.qcow2").write_bytes(b"QFI")
    with pytest.raises(BadData, match="not a qcow2 over a base"):
        templates.backing(tmp_path / "disk.qcow2")


def test_verbose_says_the_way_and_the_phases(home: Path) -> None:
    words = ("--rm", "--network", "none", "--memory", "128M", "--accel", "tcg", "--verbose")
    warm = vmm("run", "--vm", *words, "tiny", "true")
    assert f"a clone of the template {only(home).name}" in warm.stderr
    assert re.search(r"[\d.]+ ms  VMM until it is ready", warm.stderr)
    assert re.search(r"[\d.]+ ms  in all", warm.stderr)
    cold = vmm("run", "--vm", *words, "--boot", "microvm", "tiny", "true")
    assert "a boot by microvm" in cold.stderr
    assert "the kernel until its init" in cold.stderr


def test_verbose_parts_the_freezing_from_the_start() -> None:
    edges = Edges()
    for edge, at_ns in (("t0", 0), ("t1", 5_000_000), ("t2", 2_015_000_000)):
        edges.mark(edge, at_ns)
    edges.freezing_ns = 2_000_000_000
    assert [line.split()[0] for line in verbose.lines(edges)] == ["5.0", "2000.0", "10.0", "2015.0"]
    assert "freezing a template" in verbose.lines(edges)[1]


def test_explain_tells_how_a_clone_runs_and_what_it_keeps(home: Path) -> None:
    asked = TINY._replace(rm=False, name="told", command=("sleep", "100"))
    runs.run_detached(asked, Edges())
    memory = str(only(home).memory)
    try:
        told = vmm("explain", "told").stdout
        assert "boot id" in told
        assert f"mem-path={memory},share=off" in told  # as QEMU's own command line has it
        assert "-incoming defer" in told
        vmm("stop", "-t", "0", "told")
        assert vmm("start", "told").returncode == 0  # a boot: its disk is no longer what the template knows
        told = vmm("explain", "told").stdout
        assert "boot id" not in told
        assert memory not in told
    finally:
        vmm("rm", "-f", "told")


def test_who_reads_a_clones_memory_leaves_its_template_no_larger(home: Path) -> None:
    """Each page of it is read for a snapshot, a live clone and a move; a read fills a hole of tmpfs."""
    runs.run_detached(TINY._replace(rm=False, name="read", command=("sleep", "100")), Edges())
    template = only(home)
    before = template.memory.stat().st_blocks
    assert before * 512 < 0.9 * template.memory_bytes
    try:
        words: tuple[tuple[str, ...], ...] = (("snapshot", "create", "--memory", "read", "s"),)
        words += (("clone", "--live", "read", "copy"), ("migrate", "read"))
        for one in words:
            done = vmm(*one)
            assert done.returncode == 0, done.stderr
            assert template.memory.stat().st_blocks <= 1.05 * before, one
            assert templates.damage(template) == ""
        assert said("echo", "sound") == (0, "sound\n")
    finally:
        vmm("rm", "-f", "read", "copy")


def test_a_clone_with_a_card_outlives_its_reset_button(home: Path) -> None:
    """Its guest resets the card: QEMU, told to announce nothing after a migration, ends at that."""
    words = {"rm": False, "name": "pressed", "network": None, "memory_bytes": 160 << 20}
    request = TINY._replace(**words, command=("sleep", "100"))
    runs.run_detached(request, Edges())
    try:
        assert vmm("reset", "pressed").returncode == 0
        assert vmm("exec", "pressed", "true").returncode == 0
    finally:
        vmm("rm", "-f", "pressed")
        (made,) = [one for one in templates.every(home) if one.memory_bytes == 160 << 20]
        templates.remove(home, made.name)


def test_a_template_outlives_who_was_killed_as_he_dug_in_its_memory(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = only(home)

    def killed_in_the_middle(*_: object, **__: object) -> None:
        template.memory.touch()
        os._exit(9)

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(commands, "run", killed_in_the_middle)
        holes.give_back(template.memory)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert "memory changed" in templates.damage(template)
    assert said("true") == (0, "")
    assert only(home) == template
    assert templates.damage(template) == ""


def test_a_cloneable_machine_is_a_clone_of_the_template_that_is_there(home: Path) -> None:
    made = only(home).name
    assert said("true", request=TINY._replace(cloneable=True)) == (0, "")
    assert [one.name for one in templates.every(home)] == [made]


def test_an_image_stays_while_a_template_stands_on_it(home: Path) -> None:
    words = ("tiny", "--network", "none", "--memory", "112M", "--accel", "tcg")
    assert vmm("template", "create", "three", *words).returncode == 0
    try:
        assert vmm("run", "-d", "--name", "upon", "--from", "three", "sleep", "100").returncode == 0
        assert vmm("template", "create", "four", "upon").returncode == 0
        assert templates.load(home, "four").image_digest == templates.load(home, "three").image_digest
        both = vmm("template", "rm", "three")
        assert "hint: vmm rm upon; vmm template rm four first" in both.stderr
        assert vmm("rm", "-f", "upon").returncode == 0
        refused = vmm("image", "rm", "tiny")
        assert refused.returncode == 1
        assert "in use by template three, template four" in refused.stderr
        assert "hint: vmm template rm three four" in refused.stderr
        assert vmm("image", "tag", "tiny", "other").returncode == 0
        assert vmm("image", "rm", "tiny").returncode == 0  # one of two names
        ran = vmm("run", "--rm", "--from", "three", "echo", "there")
        assert (ran.stdout, "making it" in ran.stderr) == ("there\n", False), ran.stderr
        assert vmm("image", "tag", "other", "tiny").returncode == 0
        assert vmm("image", "rm", "other").returncode == 0
        assert "image" not in vmm("prune", "-f", "-a").stdout
        ran = vmm("run", "--rm", "--from", "three", "echo", "there")
        assert (ran.returncode, ran.stdout) == (0, "there\n"), ran.stderr
    finally:
        vmm("rm", "-f", "upon")
        vmm("template", "rm", "four")
        vmm("template", "rm", "three")
    assert said("true") == (0, "")  # for the tests that follow: prune took the template of `vmm run`


def test_a_whole_system_in_the_foreground_ends_in_order_when_it_is_told_to(home: Path) -> None:
    words = ("run", "--rm", "--vm", "--name", "shown", "--network", "none", "--accel", "tcg")
    line = [sys.executable, "-m", "cli.main", *words, "tiny", "/sbin/init"]
    running = subprocess.Popen(
        line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    assert running.stdout.readline()  # its console has spoken: we have joined it
    running.terminate()
    _, told = running.communicate(timeout=60)
    assert (running.returncode, told) == (128 + signal.SIGTERM, "")
    assert not (paths.run_dir(home) / "shown").exists()
    assert "shown" not in vmm("ls", "-a").stdout


def test_removing_templates_one_that_is_not_there_keeps_no_other_from_it(home: Path) -> None:
    made = vmm("template", "create", "five", "tiny", "--network", "none", "--memory", "112M")
    assert made.returncode == 0, made.stderr
    done = vmm("template", "rm", "none-such", "five")
    assert (done.returncode, done.stdout) == (1, "five\n")
    assert "no template 'none-such'" in done.stderr
    assert vmm("template", "rm").returncode == 2


def test_a_template_of_a_machine_that_runs(home: Path) -> None:
    counts = "echo disk >/d; i=0; while :; do i=$((i+1)); echo $i >/dev/shm/i; sleep 0.1; done"
    runs.run_detached(TINY._replace(rm=False, name="source", command=("sh", "-c", counts)), Edges())
    try:
        time.sleep(1)
        refused = vmm("template", "create", "live", "source", "--memory", "64M")
        assert (refused.returncode, "leave it out" in refused.stderr) == (2, True)
        made = vmm("template", "create", "live", "source")
        assert (made.returncode, made.stdout) == (0, "live\n"), made.stderr
        before = int(vmm("exec", "source", "cat", "/dev/shm/i").stdout)
        ran = vmm("run", "--vm", "--rm", "--from", "live", "sh", "-c", "cat /d; hostname; cat /dev/shm/i")
        disk, name, count = ran.stdout.split("\n")[:3]
        assert (ran.returncode, disk) == (0, "disk"), ran.stderr
        assert name != "source"
        assert int(count) > 0
        vmm("exec", "source", "sh", "-c", "echo other >/d; sync")
        again = vmm("run", "--vm", "--rm", "--from", "live", "cat", "/d")
        assert again.stdout == "disk\n"
        assert int(vmm("exec", "source", "cat", "/dev/shm/i").stdout) > before  # it went on
    finally:
        vmm("rm", "-f", "source")
        vmm("template", "rm", "live")


def test_a_booted_machine_is_refused_as_template_with_the_reason(home: Path) -> None:
    asked = TINY._replace(rm=False, name="booted", boot="microvm", command=("sleep", "100"))
    runs.run_detached(asked, Edges())
    try:
        refused = vmm("template", "create", "of-booted", "booted")
        assert refused.returncode == 1
        assert "its memory is QEMU's own, not a file's" in refused.stderr
        assert vmm("exec", "booted", "echo", "alive").stdout == "alive\n"
        assert not (templates.root(home) / "of-booted").exists()
    finally:
        vmm("rm", "-f", "booted")


def test_clones_at_once(home: Path) -> None:
    names: list[str] = []
    try:
        for _ in range(4):
            asked = TINY._replace(rm=False, command=("sleep", "100"))
            names.append(runs.run_detached(asked, Edges()).name)
        hosts = {vmm("exec", name, "hostname").stdout for name in names}
        assert hosts == {name.replace("_", "-") + "\n" for name in names}
    finally:
        vmm("rm", "-f", *names)


@pytest.mark.parametrize("file", ["memory", "state", "disk.qcow2"])
def test_a_template_that_changed_is_made_anew(
    home: Path, file: str, capfd: pytest.CaptureFixture[str]
) -> None:
    template = only(home)
    path = template.memory if file == "memory" else template.folder / file
    path.chmod(0o600)  # what an ordinary user needs
    os.truncate(path, path.stat().st_size - 4096)
    assert said("echo", "still right") == (0, "still right\n")
    assert "changed since it was frozen" in capfd.readouterr().err
    assert templates.damage(only(home)) == ""


def test_after_a_reboot_of_the_host_the_memory_is_gone(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    only(home).memory.unlink()
    assert said("echo", "again") == (0, "again\n")
    assert "the host was started anew" in capfd.readouterr().err


def test_another_helper_kernel_or_memory_is_another_template(home: Path, tmp_path: Path) -> None:
    from instances import machine_wiring, provision
    from instances.wiring import identity_of

    image = provision.image("tiny")
    spec = machine_wiring.outline(TINY, image, identity_of("0" * 64, "x"))
    for name in ("kernel", "initrd"):
        (tmp_path / name).write_text(name)
    from vmm.spec import replace

    spec = replace(spec, kernel=str(tmp_path / "kernel"), initrd=str(tmp_path / "initrd"))
    base = (str(tmp_path / "base"), 8 << 30)
    first = templates.key(spec, "tcg", base)
    same = replace(spec, name="other", hostname="other", uuid="0" * 32)
    assert templates.key(same, "tcg", base) == first
    others = [
        templates.key(replace(spec, memory_bytes=256 << 20), "tcg", base),
        templates.key(replace(spec, cpus=2), "tcg", base),
        templates.key(replace(spec, cpu_model="max"), "tcg", base),
        templates.key(spec, "kvm", base),
        templates.key(spec, "tcg", (base[0], 9 << 30)),
    ]
    (tmp_path / "initrd").write_text("an initramfs with another helper")
    others.append(templates.key(spec, "tcg", base))
    assert len({first, *others}) == 7


def test_two_first_runs_make_one_template(home: Path) -> None:
    templates.remove(home, only(home).name)
    line = [sys.executable, "-m", "cli.main", "run", "--vm", "--rm", "--network", "none", "--memory", "128M"]
    line += ["--accel", "tcg", "tiny", "echo", "hi"]
    both = [subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in "12"]
    told = [one.communicate(timeout=120) for one in both]
    assert [out for out, _ in told] == ["hi\n", "hi\n"]
    assert sum("freezing a template" in err for _, err in told) == 1
    only(home)


def test_a_killed_builder_leaves_nothing(home: Path) -> None:
    templates.remove(home, only(home).name)
    line = [sys.executable, "-m", "cli.main", "run", "--vm", "--rm", "--network", "none", "--memory", "128M"]
    for delay_s in (0.6, 1.2):
        with leaks.none(home, files=False):
            one = subprocess.Popen([*line, "--accel", "tcg", "tiny", "true"], stderr=subprocess.DEVNULL)
            time.sleep(delay_s)
            one.kill()
            one.wait()
            repair.repair()
    assert [one.name for one in templates.memory_dir(home).glob("*.memory")] == [
        f"{one.name}.memory" for one in templates.every(home)
    ]
    assert said("echo", "hi") == (0, "hi\n")


def test_a_clone_killed_in_the_middle_hurts_nobody(home: Path) -> None:
    line = [sys.executable, "-m", "cli.main", "run", "--vm", "--rm", "--network", "none", "--memory", "128M"]
    for delay_s in (0.1, 0.25, 0.3):
        with leaks.none(home, files=False):
            one = subprocess.Popen([*line, "--accel", "tcg", "tiny", "sleep", "9"], stderr=subprocess.DEVNULL)
            time.sleep(delay_s)
            one.kill()
            one.wait()
            vmm("ls")  # the next command takes away what is left
    assert templates.damage(only(home)) == ""
    assert said("echo", "hi") == (0, "hi\n")


def test_a_template_removed_while_a_clone_runs(home: Path) -> None:
    told: list[tuple[int, str]] = []
    run = threading.Thread(
        target=lambda: told.append(said("sh", "-c", "sleep 1; echo alive; ls /bin/busybox"))
    )
    run.start()
    time.sleep(0.7)
    templates.remove(home, only(home).name)
    run.join()
    assert told == [(0, "alive\n/bin/busybox\n")]


def test_no_room_for_the_memory_boots_instead(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    need("root")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", small], check=True)
    try:
        monkeypatch.setattr(templates, "memory_dir", lambda home: small)
        request = TINY._replace(memory_bytes=136 << 20)
        assert said("echo", "hi", request=request) == (0, "hi\n")
        told = capfd.readouterr().err
        assert "no template, booting instead" in told
        assert "needs 136 MiB" in told
    finally:
        subprocess.run(["umount", small], check=True)


def test_templates_by_name(home: Path) -> None:
    made = vmm("template", "create", "one", "tiny", "--network", "none", "--memory", "128M", "--accel", "tcg")
    assert (made.returncode, made.stdout) == (0, "one\n"), made.stderr
    again = vmm("template", "create", "one", "tiny")
    assert again.returncode == 1
    assert "there is one" in again.stderr
    ran = vmm("run", "--vm", "--rm", "--from", "one", "sh", "-c", "echo in; exit 5")
    assert (ran.returncode, ran.stdout) == (5, "in\n"), ran.stderr
    whole = vmm("run", "--from", "one", "/sbin/init")
    assert (whole.returncode, "runs one command under our init" in whole.stderr) == (125, True)
    listed = json.loads(vmm("template", "ls", "--json").stdout)["templates"]
    assert [one["image"] for one in listed if one["name"] == "one"] == ["tiny"]
    assert re.search(r"one +tiny .* ready", vmm("template", "ls").stdout)
    os.truncate(paths.home() / "templates" / "one" / "state", 100)
    broken = vmm("run", "--vm", "--rm", "--from", "one", "true")
    assert broken.returncode == 125
    assert "state changed since it was frozen" in broken.stderr
    assert vmm("template", "rm", "one").stdout == "one\n"
    gone = vmm("run", "--vm", "--rm", "--from", "one", "true")
    assert gone.returncode == 125
    assert "no template 'one'" in gone.stderr


def test_a_clone_keeps_its_disk_when_its_template_goes_and_it_starts_again(home: Path) -> None:
    asked = TINY._replace(rm=False, name="kept", command=("sh", "-c", "ls /kept; echo x >/kept"))
    try:
        first = runs.run_detached(asked, Edges())
        assert vmm("wait", first.name).stdout == "0\n"
        templates.remove(home, only(home).name)
        assert vmm("start", first.name).returncode == 0
        assert vmm("wait", first.name).stdout == "0\n"
        assert vmm("logs", first.name).stdout.splitlines()[-1] == "/kept"  # what the first start had written
    finally:
        vmm("rm", "-f", "kept")


def test_a_template_is_kept_while_a_disk_stands_on_it(home: Path) -> None:
    made = vmm("template", "create", "two", "tiny", "--network", "none", "--memory", "128M", "--accel", "tcg")
    assert made.returncode == 0, made.stderr
    try:
        assert vmm("run", "--vm", "-d", "--name", "upon", "--from", "two", "sleep", "9").returncode == 0
        refused = vmm("template", "rm", "two")
        assert refused.returncode == 1
        assert "vmm rm upon first" in refused.stderr
    finally:
        vmm("rm", "-f", "upon")
    assert vmm("template", "rm", "two").returncode == 0
