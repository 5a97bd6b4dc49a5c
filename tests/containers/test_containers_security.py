"""The security checklist: each test was seen to fail with its protection off (see `OFF` in the last test)."""

from __future__ import annotations

import ctypes
import functools
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from capabilities import need

from containers import capabilities, seccomp
from containers.spec import DEFAULT_CAPABILITIES, Device, Mount
from host import paths
from host.edges import Edges
from host.errors import Failure, HostUnfit, Usage
from host.exec_request import ExecRequest
from host.linux import constants
from host.stdio import Stdio


def until(condition, what: str, timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.01)


KEPT = "00000000800405fb"


def test_eleven_capabilities_and_no_inheritable_or_ambient_ones(lab):
    lines = lab.shell("grep ^Cap /proc/self/status")[1].split()
    found = dict(zip(lines[::2], lines[1::2], strict=True))
    zero = "0" * 16
    assert found == {"CapInh:": zero, "CapPrm:": KEPT, "CapEff:": KEPT, "CapBnd:": KEPT, "CapAmb:": zero}
    assert capabilities.mask(DEFAULT_CAPABILITIES) == int(KEPT, 16)


def test_what_the_engine_inherits_reaches_no_command(lab):
    """CVE-2022-29162: execve(2) adds the inheritable ones, from outside the bounding set too."""
    container = lab.make("/bin/sh", "-c", "grep ^Cap /proc/self/status")
    with tempfile.TemporaryFile() as output:
        pid = os.fork()
        if pid == 0:
            _inherit_everything()
            os._exit(container.run(Stdio(0, output.fileno(), output.fileno()), Edges()))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        output.seek(0)
        lines = output.read().decode().split()
    zero = "0" * 16
    found = dict(zip(lines[::2], lines[1::2], strict=True))
    assert found == {"CapInh:": zero, "CapPrm:": KEPT, "CapEff:": KEPT, "CapBnd:": KEPT, "CapAmb:": zero}


def _inherit_everything() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = struct.pack("Ii", constants.LINUX_CAPABILITY_VERSION_3, 0), ctypes.create_string_buffer(24)
    assert libc.capget(header, sets) == 0
    effective, permitted, _, effective_high, permitted_high, _ = struct.unpack("6I", sets.raw)
    wanted = (effective, permitted, permitted, effective_high, permitted_high, permitted_high)
    assert libc.capset(header, struct.pack("6I", *wanted)) == 0


def test_no_signal_is_blocked_or_ignored_inside(lab):
    """The engine blocks what it passes on, and Python ignores SIGPIPE: neither is the command's."""
    look = ("grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status")
    running = lab.make("sleep", "60", name="c3")
    running.start(Edges())
    for _, said in (
        lab.run(lab.make(*look)),
        lab.run(lab.make(*look, init=True, name="c2")),
        lab.exec(running, *look),
    ):
        _, blocked, _, ignored = said.split()
        assert int(blocked, 16) == 0
        assert int(ignored, 16) & 0x7FFFFFFF == 0, "but glibc's own two, which posix_spawn(3) ignores"


def test_another_user_has_no_capability_and_cannot_get_one(lab):
    output = lab.shell("grep -E '^Cap(Prm|Eff)|NoNew' /proc/self/status", user="ann")[1]
    assert output.split() == ["CapPrm:", "0" * 16, "CapEff:", "0" * 16, "NoNewPrivs:", "1"]


def test_capabilities_are_added_and_dropped_by_name(lab):
    wanted = capabilities.adjusted(DEFAULT_CAPABILITIES, ("CAP_NET_RAW",), ("CHOWN",))
    assert "NET_RAW" in wanted
    assert "CHOWN" not in wanted
    eff = lab.shell("grep CapEff /proc/self/status", capabilities=wanted)[1].split()[1]
    assert int(eff, 16) == capabilities.mask(wanted)
    assert capabilities.adjusted(DEFAULT_CAPABILITIES, ("KILL",), ("ALL",)) == ("KILL",)
    with pytest.raises(Usage, match="none of that name"):
        capabilities.mask(("CAP_FLY",))


def test_no_new_privileges_by_default_with_an_opt_out(lab):
    assert lab.shell("grep NoNew /proc/self/status")[1].split()[1] == "1"
    assert lab.shell("grep NoNew /proc/self/status", no_new_privileges=False)[1].split()[1] == "0"


def test_setuid_programs_gain_nothing_unless_opted_out(lab, rootfs, in_background):
    container = lab.make("/bin/sh", "-c", "touch /tmp/suid")
    lab.run(container)
    suid = container.folder / "upper/tmp/suid"
    suid.write_bytes(paths.guest_helper().read_bytes())
    suid.chmod(0o4755)
    lowers = (str(container.folder / "upper"), str(rootfs))
    for opted_out, expected in ((False, "1000"), (True, "0")):
        words = ("/tmp/suid", "init", "--", "sleep", "30")
        again = lab.make(
            *words, user="ann", name=f"s{opted_out}", lower_dirs=lowers, no_new_privileges=not opted_out
        )
        in_background(functools.partial(lab.run, again))
        until(lambda one=again: one.pid() and "sleep" in _children_of(one.pid()), "its child")
        uids = Path(f"/proc/{again.pid()}/status").read_text().split("Uid:")[1].split()
        assert uids[1] == expected, "the effective uid"


def _children_of(pid: int) -> str:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return " ".join(Path(f"/proc/{one}/comm").read_text() for one in children)
    except OSError:
        return ""


def test_masked_paths_are_empty(lab):
    script = """
        for f in interrupts kcore keys latency_stats sched_debug timer_list timer_stats; do
            test ! -e /proc/$f || cat /proc/$f | head -c 1; done
        for d in /proc/acpi /proc/asound /proc/scsi /sys/firmware /sys/devices/virtual/powercap; do
            test ! -e $d || ls $d; done
    """
    assert lab.shell(script) == (0, "")
    open_ = lab.shell("head -c 1 /proc/interrupts | wc -c", masked=False)[1].strip()
    assert open_ == "1", "the file has something to hide"


@pytest.mark.parametrize(
    "path",
    [
        "/proc/sys/kernel/core_pattern",
        "/proc/sysrq-trigger",
        "/proc/irq/default_smp_affinity",
        "/proc/sys/kernel/modprobe",
        "/sys/kernel/uevent_helper",
        "/sys/fs/cgroup/memory/cgroup.procs",
        "/sys/fs/cgroup/pids/pids.max",
    ],
)
def test_kernel_knobs_cannot_be_written(lab, path):
    status, output = lab.shell(f"test -e {path} || exit 77; echo 0 > {path}")
    if status == 77:
        pytest.skip(f"{path} is not in this kernel")
    assert status != 0
    assert "Read-only" in output


def test_proc_sys_and_dev_are_mounted_as_they_should(lab):
    lines = lab.shell("cat /proc/self/mounts")[1].splitlines()
    found = {line.split()[1]: line.split()[3].split(",") for line in lines}
    for where in ("/proc", "/sys", "/dev/shm", "/dev/mqueue", "/sys/fs/cgroup"):
        assert {"nosuid", "nodev", "noexec"} <= set(found[where]), where
    assert "ro" in found["/sys"]
    assert "ro" in found["/sys/fs/cgroup"]
    assert {"nosuid", "mode=755", "size=65536k"} <= set(found["/dev"])
    assert {"ptmxmode=666", "mode=620", "gid=5"} <= set(found["/dev/pts"])
    assert "size=65536k" in found["/dev/shm"]


def test_only_harmless_device_nodes(lab):
    listed = lab.shell("for f in /dev/*; do test -L $f || test -d $f || stat -c '%n %t:%T' $f; done")[1]
    expected = {
        "/dev/null 1:3", "/dev/zero 1:5", "/dev/full 1:7",
        "/dev/random 1:8", "/dev/urandom 1:9", "/dev/tty 5:0",
    }  # fmt: skip
    assert set(listed.splitlines()) == expected


def test_the_device_cgroup_lets_none_of_the_hosts_disks_be_opened(lab):
    """CAP_MKNOD makes the node; opening it is what the cgroup forbids."""
    try:
        os.close(os.open("/dev/loop0", os.O_RDONLY))
    except OSError as error:
        pytest.skip(f"this host itself cannot open a disk: {error}")
    caps = (*DEFAULT_CAPABILITIES, "MKNOD")
    script = "mknod /tmp/disk b 7 0 && exec 3</tmp/disk"
    status, output = lab.shell(script, capabilities=caps)
    assert status != 0
    assert "Operation not permitted" in output
    assert lab.shell("rm -f /tmp/disk; " + script, privileged=True)[0] == 0, "it is the cgroup that forbids"
    assert (
        lab.shell("mknod /tmp/full c 1 7 && echo x > /tmp/full", capabilities=caps)[1].count("No space") == 1
    )


def test_a_device_is_given_by_name_and_only_then(lab):
    loop = next(
        (one for one in ("/dev/loop0", "/dev/loop-control", "/dev/fuse") if os.path.exists(one)), None
    )
    if loop is None:
        pytest.skip("no harmless device to give on this host")
    script = f"test -e {loop} && exec 3<{loop}"
    assert lab.shell(script)[0] == 1
    assert lab.shell(script, devices=(Device(loop, loop, "r"),)) == (0, "")
    status, output = lab.shell(f"exec 3<>{loop}", devices=(Device(loop, loop, "r"),))
    assert status != 0
    assert "Operation not permitted" in output, "read was given, write was not"
    with pytest.raises(Failure, match="No such file"):
        lab.shell("true", devices=(Device("/dev/no-such", "/dev/x"),))
    with pytest.raises(Usage, match="not a device"):
        lab.shell("true", devices=(Device("/etc/hostname", "/dev/x"),))


def test_mounts_do_not_travel_to_the_host(lab):
    before = Path("/proc/self/mountinfo").read_text()
    lab.shell("true", privileged=True)
    lab.shell("mount -t tmpfs x /tmp && mount --make-shared /tmp", privileged=True)
    assert Path("/proc/self/mountinfo").read_text() == before


def test_the_old_root_is_out_of_reach(lab):
    """pivot_root and a detached old root, not chroot: the classic ways up end at our own root."""
    script = "cd /; ls ..; cd ../../../..; pwd; ls -d /proc/1/root/work /proc/1/cwd/work 2>/dev/null"
    caps = (*DEFAULT_CAPABILITIES, "SYS_PTRACE")
    lines = lab.shell(script, capabilities=caps)[1].split()
    assert "work" not in lines
    assert lines[-1] == "/"
    mounts = lab.shell("grep -c ' / / ' /proc/self/mountinfo")[1]
    assert mounts.strip() == "1"


SYSCALLS = {
    # name: (number on x86_64, arguments, errno)
    "mount": (165, (0, 0, 0, 0, 0), 1),
    "umount2": (166, (0, 0), 1),
    "pivot_root": (155, (0, 0), 1),
    "bpf": (321, (0, 0, 0), 1),
    "keyctl": (250, (0, 0), 1),
    "add_key": (248, (0, 0, 0, 0, 0), 1),
    "userfaultfd": (323, (0,), 1),
    "io_uring_setup": (425, (1, 0), 1),
    "open_by_handle_at": (304, (0, 0, 0), 1),
    "kexec_load": (246, (0, 0, 0, 0), 1),
    "perf_event_open": (298, (0, 0, 0, 0, 0), 1),
    "unshare user": (272, (0x10000000,), 1),
    "setns": (308, (0, 0), 1),
    "clone with a new pid namespace": (56, (0x20000000, 0, 0, 0, 0), 1),
    "clone with a new user namespace": (56, (0x10000000, 0, 0, 0, 0), 1),
    "clone3": (435, (0, 0), 38),
    "a call of the future": (999, (), 38),
    "AF_ALG": (41, (38, 5, 0), 1),
    "AF_VSOCK": (41, (40, 1, 0), 1),
    "personality ADDR_NO_RANDOMIZE": (135, (0x0040000,), 38),
    "TIOCSTI": (16, (0, 0x5412, 0), 1),
    "TIOCSTI with a dirty upper half": (16, (0, 0x5412 | 1 << 40, 0), 1),
    "TIOCLINUX": (16, (0, 0x541C, 0), 1),
}


def _errno_under(program: bytes, number: int, arguments: tuple[int, ...]) -> int:
    """The errno of a raw system call in a child of ours under the filter; 0 for success."""
    from host.linux import syscalls as sc

    libc = ctypes.CDLL(None, use_errno=True)
    longs = [ctypes.c_long(number), *map(ctypes.c_long, arguments)]
    pid = os.fork()
    if pid == 0:
        try:
            sc.prctl(sc.PR_SET_NO_NEW_PRIVS, 1)
            sc.seccomp_filter(program)
            answer = libc.syscall(*longs)
            os._exit(ctypes.get_errno() if answer < 0 else 0)
        finally:
            os._exit(255)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture(scope="module")
def default_program() -> bytes:
    if os.uname().machine != "x86_64":
        pytest.skip("the numbers of the system calls are those of x86_64")
    return seccomp.compile_default(frozenset(DEFAULT_CAPABILITIES))


@pytest.mark.parametrize("name", SYSCALLS)
def test_seccomp_refuses(default_program, name):
    number, arguments, expected = SYSCALLS[name]
    assert _errno_under(default_program, number, arguments) == expected


@pytest.mark.parametrize(
    ("name", "number", "arguments"),
    [
        ("getpid", 39, ()),
        ("socket AF_INET", 41, (2, 1, 0)),
        ("socket AF_NETLINK", 41, (16, 3, 0)),
        ("personality query", 135, (0xFFFFFFFF,)),
        ("futex wake", 202, (0, 1, 0)),
    ],
)
def test_seccomp_allows(default_program, name, number, arguments):
    assert _errno_under(default_program, number, arguments) in (0, 14), name  # EFAULT: it ran


def test_seccomp_opens_with_the_capability_that_guards_the_call(default_program):
    admin = seccomp.compile_default(frozenset({"SYS_ADMIN"}))
    number, arguments, _ = SYSCALLS["bpf"]
    assert _errno_under(admin, number, arguments) != 1
    assert _errno_under(admin, *SYSCALLS["TIOCSTI"][:2]) == 1


def test_seccomp_is_compiled_once_and_loading_it_imports_nothing(lab):
    lab.shell("true")
    script = (
        "import sys; sys.argv=['x']\n"
        "from pathlib import Path\n"
        "from containers import seccomp\n"
        f"cache = Path({str(lab.home / 'cache')!r})\n"
        f"p = seccomp.program('default', frozenset({DEFAULT_CAPABILITIES!r}), cache)\n"
        "assert len(p) > 800 and 'pyseccomp' not in sys.modules"
    )
    root = str(Path(__file__).parents[2])
    subprocess.run([sys.executable, "-c", script], check=True, cwd=root)


def test_an_unknown_profile_is_an_error_and_unconfined_is_off(lab):
    with pytest.raises(Usage, match="profile"):
        lab.shell("true", seccomp="none-such")
    assert lab.shell("grep Seccomp: /proc/self/status", seccomp="unconfined")[1].split()[1] == "0"


def test_the_engines_interpreter_cannot_be_run_from_inside(lab, rootfs):
    """CVE-2019-5736: `#!/proc/self/exe` and links to it would run the host's Python, open for writing
    later.
    """
    evil = lab.home / "evil"
    (evil / "bin").mkdir(parents=True)
    (evil / "bin/script").write_text("#!/proc/self/exe\n")
    (evil / "bin/script").chmod(0o755)
    (evil / "bin/again").write_text("#!/bin/script\n")
    (evil / "bin/again").chmod(0o755)
    (evil / "bin/link").symlink_to("/proc/self/exe")
    for name in ("script", "again", "link"):
        status, output = lab.run(lab.make(f"/bin/{name}", lower_dirs=(str(evil), str(rootfs))))
        assert status == 126, name
        assert "CVE-2019-5736" in output


def test_the_helper_as_pid_1_cannot_be_overwritten(lab):
    before = paths.guest_helper().read_bytes()
    script = "chmod 755 /proc/1/exe; cat /bin/busybox > /proc/1/exe"
    status, output = lab.shell(script, init=True, privileged=True)
    assert status != 0
    assert "chmod: /proc/1/exe: Read-only file system" in output
    assert paths.guest_helper().read_bytes() == before


def test_before_it_becomes_the_command_nobody_inside_may_trace_it(lab):
    """CVE-2016-9962: whoever enters with our program in memory is hidden before it can be seen inside."""
    container = lab.make("/bin/sleep", "60", name="t")
    container.start(Edges())
    lines = traced(
        lab,
        "t",
        'container.exec(ExecRequest(("true",)), Stdio())',
        "prctl,setns,clone,execve,execveat,mount_setattr",
    )
    launcher = next(line.split()[0] for line in lines if '"shelter"' in line)
    calls = [line.split(None, 1)[1] for line in lines if line.split()[0] == launcher]
    hidden = next(n for n, call in enumerate(calls) if "PR_SET_DUMPABLE, SUID_DUMP_DISABLE" in call)
    seen = next(n for n, call in enumerate(calls) if call.startswith(("setns(", "clone(")))
    sealed = next(n for n, call in enumerate(calls) if "MOUNT_ATTR_RDONLY" in call)
    again = next(n for n, call in enumerate(calls) if call.startswith("execveat("))
    assert sealed < again < hidden < seen  # from a mount that nobody can write through (CVE-2019-5736)


def test_a_terminal_is_taken_from_the_real_ptmx_only(lab):
    """CVE-2025-52565: a container that covers its /dev/pts/ptmx gets no terminal, and we open no file."""
    script = "mount --bind /dev/zero /dev/pts/ptmx && touch /tmp/covered; exec sleep 60"
    container = lab.make("/bin/sh", "-c", script, privileged=True)
    container.start(Edges())
    until(lambda: container.exec(ExecRequest(("test", "-e", "/tmp/covered")), Stdio()) == 0, "the cover")
    with pytest.raises(Failure, match=r"cannot make a terminal.*/dev/pts/ptmx.*No such device"):
        container.exec(ExecRequest(("true",), tty=True), Stdio(tty=True))


def test_a_visitor_of_ours_inside_may_not_be_traced_either(lab):
    from containers import visiting
    from host.linux import syscalls as sc

    container = lab.make("/bin/sleep", "60")
    container.start(Edges())
    read, write = os.pipe()
    get_dumpable = 3  # PR_GET_DUMPABLE, prctl(2)
    assert visiting.visit(container, lambda: print_number(sc.prctl(get_dumpable)), write) == 0
    assert os.read(read, 10) == b"0"
    os.close(read)
    os.close(write)


def print_number(number: int) -> None:
    os.write(1, b"%d" % number)


def test_the_working_directory_cannot_be_a_leaked_descriptor(lab, rootfs):
    """CVE-2024-21626: by word it is refused, through a link of the image it cannot be entered."""
    with pytest.raises(Usage, match="out of the container"):
        lab.shell("ls", cwd="/proc/self/fd/7")
    evil = lab.home / "evil"
    evil.mkdir(exist_ok=True)
    leaked = [os.open("/", os.O_RDONLY | os.O_DIRECTORY) for _ in range(4)]
    try:
        for fd in leaked:
            (evil / f"srv{fd}").symlink_to(f"/proc/self/fd/{fd}")
            with pytest.raises(Failure, match="working directory"):
                lab.shell("ls", cwd=f"/srv{fd}", lower_dirs=(str(evil), str(rootfs)))
    finally:
        for fd in leaked:
            os.close(fd)


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
def test_an_image_with_a_link_for_proc_sys_or_dev_is_refused(lab, rootfs, name):
    """CVE-2019-19921: masks and mounts would land where the link says."""
    evil = lab.home / "evil"
    evil.mkdir()
    (evil / name).symlink_to("/tmp")
    with pytest.raises(Failure, match=f"/{name}"):
        lab.shell("true", lower_dirs=(str(evil), str(rootfs)))


def test_a_mount_target_that_is_a_link_stays_inside(lab, rootfs):
    """CVE-2021-30465: the target is resolved in the container's own root, wherever its links lead."""
    canary = lab.home / "canary"
    canary.mkdir()
    source = lab.home / "source"
    source.mkdir()
    (source / "data").write_text("x")
    evil = lab.home / "evil"
    evil.mkdir()
    (evil / "mnt").symlink_to(canary)
    (evil / "up").symlink_to("../../../../../..")
    lowers = (str(evil), str(rootfs))
    with pytest.raises(Failure, match="No such file"):
        lab.shell("ls /mnt", lower_dirs=lowers, mounts=(Mount("bind", "/mnt/sub", str(source)),))
    assert not list(canary.iterdir()), "the host's directory was never touched"
    status, output = lab.shell("ls /up/x", lower_dirs=lowers, mounts=(Mount("bind", "/up/x", str(source)),))
    assert (status, output) == (0, "data\n")
    assert not Path("/x").exists(), "`..` at the new root led to the old one, which lay on top of it"
    (evil / "hide").symlink_to("/proc/sys")
    with pytest.raises(Failure, match="cross-device"):
        lab.shell("true", lower_dirs=lowers, mounts=(Mount("bind", "/hide", str(source)),))
    with pytest.raises(Failure, match="cross-device"):
        lab.shell("true", lower_dirs=lowers, mounts=(Mount("tmpfs", "/hide"),))


def test_binds_are_nosuid_and_nodev_unless_told(lab):
    source = lab.home / "source"
    source.mkdir()
    script = "grep ' /data ' /proc/self/mounts"
    mount = Mount("bind", "/data", str(source))
    assert {"nosuid", "nodev", "rw"} <= set(lab.shell(script, mounts=(mount,))[1].split()[3].split(","))
    read_only = lab.shell(script, mounts=(mount._replace(read_only=True),))[1].split()[3].split(",")
    assert "ro" in read_only


def test_the_users_file_of_the_image_cannot_lead_out(lab, rootfs):
    evil = lab.home / "evil"
    (evil / "etc").mkdir(parents=True)
    (lab.home / "passwd").write_text("host:x:4242:4242::/:/bin/sh\n")
    (evil / "etc/passwd").symlink_to(lab.home / "passwd")
    with pytest.raises(Usage, match="not in the image"):
        lab.shell("id -u", user="host", lower_dirs=(str(evil), str(rootfs)))


def test_copying_never_leaves_the_root(lab, rootfs):
    """CVE-2018-15664: links of the image end at its own root, on the way in and out."""
    secret = lab.home / "secret"
    secret.write_text("host")
    evil = lab.home / "evil"
    evil.mkdir()
    (evil / "out").symlink_to(lab.home)
    container = lab.make("/bin/sleep", "9", lower_dirs=(str(evil), str(rootfs)))
    for path in ("/out/secret", str(secret), "/../../../../../../.." + str(secret)):
        with pytest.raises(Failure):
            container.copy_out(path, lab.home / "got")
    given = lab.home / "given"
    given.write_text("new")
    with pytest.raises(Failure):
        container.copy_in(given, "/out/planted")
    assert not (lab.home / "planted").exists()


CHILD = """
import sys
sys.path[:0] = {path!r}
from pathlib import Path
from containers.container import Container
from containers.spec import ContainerSpec
from host.edges import Edges
from host.exec_request import ExecRequest
from host.stdio import Stdio
folder = Path({folder!r}); folder.mkdir(parents=True, exist_ok=True)
spec = ContainerSpec({name!r}, ({root!r},), ("true",), user="ann", ephemeral=True)
container = Container(folder, Path({run!r}), spec)
"""


FILES = "open,openat,openat2,pivot_root,setns,execve,execveat,connect"


def traced(lab, name: str, last_line: str, calls: str = FILES) -> list[str]:
    """strace of a Python that has a container of that name at hand, and does the last line."""
    if not Path("/usr/bin/strace").exists():
        pytest.skip("not installed: strace")
    script = CHILD.format(
        path=[str(Path(__file__).parents[2])],
        folder=str(lab.home / "instances" / name),
        name=name,
        root=str(lab.rootfs),
        run=str(paths.run_dir(lab.home) / name),
    )
    log = lab.home / "trace"
    words = [sys.executable, "-c", script + last_line]
    subprocess.run(["strace", "-f", "-o", str(log), "-e", f"trace={calls}", *words], check=True, timeout=60)
    return log.read_text().splitlines()


def opened_after(lines: list[str], border: str) -> list[str]:
    """What the process that made the last call `border` opened from then on, until its command began."""
    at = max(number for number, line in enumerate(lines) if border in line)
    child, opened = lines[at].split()[0], []
    for line in lines[at + 1 :]:
        if line.startswith(f"{child} "):
            if "execve" in line and line.rstrip().endswith("= 0"):
                return opened
            if "execve" not in line and '"' in line:  # else a call that strace cut in two
                opened.append(line.split('"')[1])
    raise AssertionError("it never executed a command")


def only_ours(opened: list[str]) -> bool:
    """Whether none of these is a module, a locale, or what the C library's name switch reads."""
    allowed = ("/proc", "/sys", "/dev", "/bin", "/usr", "/sbin", "/")
    words = (".so", ".py", "passwd", "gconv", "locale", "nsswitch", "nscd")
    return all(one.startswith(allowed) and not any(word in one for word in words) for one in opened)


def test_no_import_codec_or_user_lookup_happens_after_the_new_root(lab):
    """CVE-2019-14271: nothing of the image may be loaded into our process; strace tells every file it
    opens.
    """
    lines = traced(lab, "t", "container.run(Stdio(), Edges())")
    opened = opened_after(lines, "pivot_root(")
    door = f"{paths.run_dir(lab.home).name}-t/tasks"  # below the descriptor of a directory of cgroupfs
    assert door in opened or Path("/sys/fs/cgroup/cgroup.controllers").exists()
    assert only_ours([one for one in opened if one != door]), opened


def test_no_import_codec_or_user_lookup_happens_after_entering_a_container(lab):
    """The same for exec: from its last setns(2) on the files of the container are what it sees."""
    container = lab.make("/bin/sleep", "60", name="t")
    container.start(Edges())
    lines = traced(lab, "t", 'container.exec(ExecRequest(("true",), user="ann"), Stdio())')
    opened = opened_after(lines, "setns(")
    assert "/bin/true" in opened
    assert only_ours(opened), opened


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("i386", b"\xb8\x14\x00\x00\x00\xcd\x80\xc3"),  # mov eax, 20 (getpid); int 0x80; ret
        ("x32", b"\xb8\x27\x00\x00\x40\x0f\x05\xc3"),  # mov eax, 39 | 0x40000000; syscall; ret
    ],
)
def test_calls_of_another_architecture_end_the_process(default_program, name, code):
    """Their numbers mean other calls: a filter of x86_64 numbers would let them through."""
    import mmap
    import signal

    from host.linux import syscalls as sc

    pid = os.fork()
    if pid == 0:
        try:
            page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
            page.write(code)
            call = ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
            sc.prctl(sc.PR_SET_NO_NEW_PRIVS, 1)
            sc.seccomp_filter(default_program)
            call()
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGSYS, name


def test_files_that_it_makes_are_not_for_all_to_write(lab):
    assert lab.shell("umask; touch /tmp/f; stat -c %a /tmp/f")[1].split() == ["0022", "644"]


def test_the_way_to_the_supervisor_is_a_file_of_the_owner_alone(lab):
    """CVE-2020-15257: an abstract socket would be in reach of every container with the host's network."""
    before = Path("/proc/net/unix").read_text()
    container = lab.make("/bin/sleep", "60")
    container.start(Edges())
    until((container.run_dir.parent / "supervisor.bell").exists, "the supervisor")
    for name in ("supervisor.bell", "c1/stdout", "c1/stderr", "c1/status"):
        assert (container.run_dir.parent / name).stat().st_mode & 0o077 == 0, name
    assert container.run_dir.stat().st_mode & 0o077 == 0
    ours = [line for line in Path("/proc/net/unix").read_text().splitlines() if line not in before]
    assert not [line for line in ours if "@" in line and "vmm" in line]


def test_privileged_is_all_of_it_off_and_only_when_asked(lab):
    output = lab.shell(
        "grep -E '^(CapEff|NoNew|Seccomp:)' /proc/self/status; touch /proc/sys/x 2>&1", privileged=True
    )[1]
    assert "Seccomp:\t0" in output
    assert "NoNewPrivs:\t0" in output
    assert "CapEff:\t000001" in output


def test_its_session_is_its_own(lab, in_background):
    """setsid: whatever terminal the host has, it is nobody's controlling terminal inside."""
    container = lab.make("/bin/sleep", "60")
    in_background(lambda: lab.run(container))
    until(lambda: container.pid() and _comm(container.pid()) == "sleep", "its command")
    assert os.getsid(container.pid()) == container.pid()


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def test_user_namespaces_of_root_shift_ids_and_leave_the_layers_alone(lab):
    """`--userns auto`: root inside is nobody outside, two containers share no id, and disk shows neither."""
    need("userns")
    script = (
        "id -u; cat /proc/self/uid_map; touch /made; chown ann /made; stat -c %u /made; "
        "readlink /proc/self/ns/user"
    )
    bases = []
    for name in ("u1", "u2"):
        container = lab.make("/bin/sh", "-c", script, name=name, user_namespace="auto")
        try:
            status, output = lab.run(container)
        except HostUnfit as error:
            pytest.skip(str(error))
        words = output.split()
        assert status == 0
        assert words[0] == "0"
        assert words[4] == "1000"
        assert words[5] != os.readlink("/proc/self/ns/user")
        assert (container.folder / "upper/made").stat().st_uid == 1000, "unshifted on disk"
        bases.append(int(words[2]))
    assert abs(bases[0] - bases[1]) >= 65536
    assert min(bases) > 1 << 28


def test_exec_into_a_shifted_container(lab):
    need("userns")
    container = lab.make("/bin/sleep", "60", user_namespace="auto")
    container.start(Edges())
    host_uid = Path(f"/proc/{container.pid()}/status").read_text().split("Uid:")[1].split()[0]
    assert int(host_uid) > 1 << 28, "pid 1 is nobody on the host"
    script = "id -u; readlink /proc/self/ns/user; readlink /proc/1/ns/user"
    status, output = lab.exec(container, "sh", "-c", script)
    words = output.split()
    assert (status, words[0]) == (0, "0")
    assert words[1] == words[2]


def test_the_probe_suite_gets_through_nowhere_by_default_and_widely_when_privileged(lab):
    container = lab.make("/bin/sleep", "60")
    container.start(Edges())
    report = container.probe()
    assert report.startswith("c1: 0 of "), report
    assert report.count("refused") >= 30
    wide = lab.make("/bin/sleep", "60", name="wide", privileged=True, pid_namespace="host")
    wide.start(Edges())
    report = wide.probe()
    for name in ("mount", "host's processes", "raw socket", "sethostname"):
        assert any(line.startswith("OPEN") and name in line for line in report.splitlines()), report


def test_a_profile_file_of_the_user_is_obeyed(lab):
    profile = lab.home / "profile.json"
    rules = [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13},
        {"names": ["rmdir"], "action": "SCMP_ACT_ERRNO", "excludes": {"caps": ["CAP_CHOWN"]}},
    ]
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}))
    status, output = lab.shell("mkdir /tmp/x", seccomp=str(profile))
    assert status != 0
    assert "Permission denied" in output
    assert lab.shell("rmdir /tmp", seccomp=str(profile))[0] == 0, "this rule holds without CHOWN only"
    assert lab.shell("mkdir /a; rmdir /a", seccomp=str(profile), capabilities=("KILL",))[0] != 0
    profile.write_text("{}")
    with pytest.raises(Failure, match="defaultAction"):
        lab.shell("true", seccomp=str(profile))


@pytest.mark.parametrize(
    ("field", "kind"),
    [("pid_namespace", "pid"), ("network", "net"), ("ipc_namespace", "ipc"), ("uts_namespace", "uts")],
)
def test_a_namespace_of_another_container_is_shared(lab, field, kind):
    other = lab.make("/bin/sleep", "60", name="other")
    other.start(Edges())
    inside = lab.shell(f"readlink /proc/self/ns/{kind}", **{field: f"/proc/{other.pid()}/ns/{kind}"})[
        1
    ].strip()
    assert inside == os.readlink(f"/proc/{other.pid()}/ns/{kind}")
    if kind == "pid":
        words = lab.shell("ps", pid_namespace=f"/proc/{other.pid()}/ns/pid")[1]
        assert "sleep 60" in words
        assert other.pid() is not None, "the neighbour lives on"
