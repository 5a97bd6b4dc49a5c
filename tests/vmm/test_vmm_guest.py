"""A real Debian guest: how far it is, every way into it, files in and out, what cloud-init made of it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from capabilities import need
from commandline import CommandLine
from machines import machine, shared_home
from test_vmm_machine import said

from host import paths, records
from host.edges import Edges
from host.errors import DeadlinePassed, Failure, NotFound
from host.exec_request import ExecRequest
from images import bootable, debian, packages
from vmm import access, console_shell, ssh
from vmm.launch import CHANNELS
from vmm.machine import Machine
from vmm.spec import from_record, replace

pytestmark = [pytest.mark.machine, pytest.mark.slow, pytest.mark.timeout(900)]
NAME = "guest-under-test"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ1pSTvA0hB1mQvJ3E1oT1L0m0K3r5Qx1o2ZkTtU6W8e teacher"
SEED = "#cloud-config\nruncmd:\n  - [sh, -c, 'echo ran > /root/ran']\n"


def machine_of(name: str) -> Machine:
    """The Machine of an instance of the shared home, as its record says."""
    folder = shared_home() / "instances" / name
    spec = from_record(records.read(folder / "instance.json")["spec"])
    return Machine(folder, paths.run_dir(shared_home()) / name, spec)


@contextlib.contextmanager
def started(name: str, *words: str) -> Iterator[CommandLine]:
    """A Debian in system mode, asked for by the command line; gone afterwards."""
    need("root", "qemu", "kernel", "guest-helper", "mmdebstrap", "sshd")
    vmm = CommandLine(shared_home())
    vmm.run("rm", "-f", name)
    try:
        vmm.ok("run", "--vm", "-d", "--name", name, "--boot", "direct", *words, timeout_s=600)
        yield vmm
    finally:
        vmm.run("rm", "-f", name)


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    """A Debian with a seed, ready."""
    folder = tmp_path_factory.mktemp("seed")
    (folder / "user-data").write_text(SEED)
    (folder / "motd").write_text("welcome\n")
    (folder / "key.pub").write_text(f"{KEY}\n")
    flags = ["--cloud-init", str(folder / "user-data"), "--write-file", f"{folder}/motd:/etc/motd.vmm"]
    flags += ["--ssh-key", str(folder / "key.pub")]
    with started(NAME, *flags, "debian", "/sbin/init") as vmm:
        vmm.ok("wait", "--for", "ssh-ready", "--timeout", "300", NAME, timeout_s=310)
        yield vmm


@pytest.fixture(params=["guest helper", "ssh", "guest agent"])
def run(request: pytest.FixtureRequest, guest: CommandLine) -> Iterator[access.Run]:
    """What runs a command in the guest, by each way in turn."""
    it = machine_of(NAME)
    way = next(one for one in access._WAYS if one.name == request.param)
    assert way.why_not(it) == ""
    if request.param == "guest agent":
        install_agent(guest)
    with way.enter(it) as entered:
        yield entered


def install_agent(vmm: CommandLine) -> None:
    """Bring Debian's qemu-ga into the guest with the libraries that a minimal Debian lacks, once."""
    if vmm.run("exec", NAME, "pidof", "qemu-ga").returncode == 0:
        return
    tree = shared_home() / "cache" / "qemu-ga"
    if not tree.exists():
        tree.mkdir(parents=True)
        for package in ("qemu-guest-agent", "libglib2.0-0", "liburing2", "libnuma1"):
            (scratch := tree / package).mkdir()
            packages.unpacked(package, scratch)
    vmm.ok("cp", str(tree / "qemu-guest-agent/tree/usr/sbin/qemu-ga"), f"{NAME}:/usr/local/sbin/qemu-ga")
    for library in tree.glob("lib*/tree/usr/lib/*-linux-gnu/*.so.*"):
        if not library.is_symlink():  # ldconfig makes the links
            vmm.ok("cp", str(library), f"{NAME}:/usr/local/lib/{library.name}")
    port = "/dev/virtio-ports/org.qemu.guest_agent.0"
    vmm.ok("exec", NAME, "sh", "-c", f"ldconfig; mkdir -p /run; qemu-ga -d -m virtio-serial -p {port}")


def status_and_output(run: access.Run, *argv: str, **more: object) -> tuple[int, bytes]:
    return said(lambda stdio: run(ExecRequest(argv, **more), stdio))  # type: ignore[arg-type]


def test_states_are_those_of_the_guest(guest: CommandLine) -> None:
    assert guest.ls()[NAME]["state"] in ("ssh-ready", "cloud-init-done")
    guest.ok("wait", "--for", "cloud-init-done", "--timeout", "200", NAME, timeout_s=210)
    assert guest.ls()[NAME]["state"] == "cloud-init-done"


def test_cloud_init_did_what_flags_and_file_said(guest: CommandLine) -> None:
    guest.ok("wait", "--for", "cloud-init-done", "--timeout", "200", NAME, timeout_s=210)
    assert guest.ok("exec", NAME, "cat", "/root/ran", "/etc/motd.vmm") == "ran\nwelcome\n"
    assert KEY in guest.ok("exec", NAME, "cat", "/home/debian/.ssh/authorized_keys")


def test_every_way_gives_output_and_the_exact_status(run: access.Run) -> None:
    assert status_and_output(run, "sh", "-c", "echo hi; exit 7") == (7, b"hi\n")
    assert status_and_output(run, "sh", "-c", "kill -TERM $$")[0] == 128 + 15
    assert status_and_output(run, "/no/such/program")[0] == 127
    assert status_and_output(run, "/etc/passwd")[0] == 126
    assert status_and_output(run, "pwd", cwd="/usr/lib") == (0, b"/usr/lib\n")
    assert status_and_output(run, "sh", "-c", 'echo "$A"', env=("A=a b'c", "PATH=/usr/bin:/bin")) == (
        0,
        b"a b'c\n",
    )


def test_ssh_passes_input_and_another_user(guest: CommandLine, tmp_path: Path) -> None:
    data = bytes(range(256)) * 1000
    source = tmp_path / "in"
    source.write_bytes(data)
    with ssh.enter(machine_of(NAME)) as run, source.open("rb") as file:
        request = ExecRequest(("sha256sum",), interactive=True)
        status, out = said(lambda stdio: run(request, stdio._replace(stdin=file.fileno(), interactive=True)))
    assert (status, out[:64]) == (0, subprocess.check_output(["sha256sum", source])[:64])
    with ssh.enter(machine_of(NAME)) as run:
        assert status_and_output(run, "id", "-un", user="nobody") == (0, b"nobody\n")


def test_another_host_key_is_refused_and_no_other_way_hides_it(guest: CommandLine) -> None:
    it = machine_of(NAME)
    with ssh.connected(it):
        pass
    pinned = it.folder / "host_key"
    right = pinned.read_text()
    try:
        pinned.write_text(right.replace("AAAA", "AAAB", 1))
        with pytest.raises(ssh.HostKeyChanged, match="another host key"), ssh.connected(it):
            pass
    finally:
        pinned.write_text(right)


def test_when_the_helper_is_busy_exec_goes_by_ssh_and_says_so(guest: CommandLine) -> None:
    it = machine_of(NAME)
    with contextlib.ExitStack() as held:
        for _ in CHANNELS:
            held.enter_context(it.channel())
        done = guest.run("exec", NAME, "sh", "-c", "echo $SSH_CONNECTION; exit 3")
    assert done.returncode == 3
    assert done.stdout.startswith("10.0.2.2 ")
    assert f"{NAME}: by ssh, for guest helper: " in done.stderr
    assert "by ssh" not in guest.run("exec", NAME, "true").stderr


def test_files_travel_by_sftp(guest: CommandLine, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "file").write_bytes(b"\0\1" * 100_000)
    (tree / "sub" / "file").chmod(0o750)
    (tree / "link").symlink_to("sub/file")
    with ssh.sftp(machine_of(NAME)) as client:
        ssh.put(client, tree, "/root")
        ssh.get(client, "/root/tree", tmp_path / "back")
    assert guest.ok("exec", NAME, "stat", "-c", "%a %s", "/root/tree/sub/file") == "750 200000\n"
    assert (tmp_path / "back" / "sub" / "file").read_bytes() == (tree / "sub" / "file").read_bytes()
    assert (tmp_path / "back" / "sub" / "file").stat().st_mode & 0o777 == 0o750
    assert os.readlink(tmp_path / "back" / "link") == "sub/file"
    with pytest.raises(NotFound), ssh.sftp(machine_of(NAME)) as client:
        ssh.get(client, "/nothing", tmp_path / "nothing")


def test_a_login_prompt_is_no_shell(guest: CommandLine) -> None:
    with (
        pytest.raises(DeadlinePassed, match="no shell shows a prompt"),
        console_shell.enter(machine_of(NAME)),
    ):
        pass


def test_the_console_is_joined_and_left_by_its_key(guest: CommandLine) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(guest.argv()[0], guest.argv("console", NAME), guest.env)
    seen, deadline = b"", time.monotonic() + 60
    while b"login:" not in seen and time.monotonic() < deadline:
        os.write(terminal, b"\r")
        while select.select([terminal], [], [], 1.0)[0]:
            seen += os.read(terminal, 4096)
    assert b"Ctrl-] leaves it" in seen
    assert b"login:" in seen
    os.write(terminal, b"\x1d")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert guest.ls()[NAME]["state"] in ("ssh-ready", "cloud-init-done")


def test_a_command_is_typed_at_a_shell_on_the_console() -> None:
    name = "console-under-test"
    vmm = CommandLine(shared_home())
    try:
        vmm.ok("run", "--vm", "-d", "--name", name, "--network", "none", "tiny", "/sbin/init")
        it = machine_of(name)
        deadline = time.monotonic() + 30
        while True:
            try:
                with console_shell.enter(it) as run:
                    assert status_and_output(run, "sh", "-c", "echo one; echo two; exit 5") == (
                        5,
                        b"one\ntwo\n",
                    )
                    break
            except DeadlinePassed:
                assert time.monotonic() < deadline
    finally:
        vmm.run("rm", "-f", name)


def test_a_guest_without_address_and_with_a_package_that_is_not_there() -> None:
    name = "lost-under-test"
    words = ["--append", "systemd.mask=systemd-networkd.service", "--package", "no-such-package"]
    with started(name, *words, "--ssh-user", "ada", "debian", "/sbin/init") as vmm:
        deadline = time.monotonic() + 200
        while vmm.run("exec", name, "systemctl", "is-active", "ssh").returncode:
            assert time.monotonic() < deadline
            time.sleep(2)
        done = vmm.run("wait", "--for", "ssh-ready", "--timeout", "5", name, timeout_s=100)
        assert done.returncode == 1
        assert "the guest got no address" in done.stderr
        assert "the end of its serial console:" in done.stderr
        done = vmm.run("wait", "--for", "cloud-init-done", "--timeout", "200", name, timeout_s=250)
        assert done.returncode == 1
        assert "cloud-init failed" in done.stderr
        assert "cloud-init status --long" in done.stderr
        assert vmm.ok("exec", "-u", "ada", name, "sudo", "-n", "id", "-u") == "0\n"


def test_an_emergency_shell_is_told() -> None:
    with started(
        "emergency-under-test", "--append", "systemd.unit=emergency.target", "debian", "/sbin/init"
    ) as vmm:
        done = vmm.run("wait", "--for", "ssh-ready", "--timeout", "60", "emergency-under-test", timeout_s=100)
        assert done.returncode == 1
        assert "stands in an emergency shell" in done.stderr


def test_a_panic_while_the_command_runs_is_told() -> None:
    need("root", "qemu", "kernel", "guest-helper", "busybox")
    vmm = CommandLine(shared_home())
    done = vmm.run(
        "run", "--vm", "--rm", "--network", "none", "tiny", "sh", "-c", "echo c > /proc/sysrq-trigger"
    )
    assert done.returncode == 125
    assert "the guest kernel panicked" in done.stderr


def test_a_root_that_is_not_there_is_told() -> None:
    need("root", "qemu", "kernel", "guest-helper", "busybox")
    with machine("true", ephemeral=True) as it:
        lost = Machine(it.folder, it.run_dir, replace(it.spec, root="/dev/nothing"))
        with pytest.raises(Failure, match="the guest found no root device"):
            lost.start(Edges())


def bootable_debian(vmm: CommandLine, folder: Path) -> str:
    """The image of a Debian disk that boots by BIOS without our helper, made once of each recipe."""
    recipe = repr((debian.PACKAGES, debian._FILES, debian._MASKED, bootable.MODULES, bootable._INIT))
    name = f"debian-disk-{hashlib.sha256(recipe.encode()).hexdigest()[:8]}"
    if name not in (there := vmm.ok("image", "ls")):
        for older in re.findall(r"^debian-disk\S*", there, re.MULTILINE):
            vmm.run("image", "rm", older)
        vmm.ok("image", "build", "--base", "debian", timeout_s=600)
        disk = str(folder / "disk.qcow2")
        vmm.ok("image", "convert", "--bootable", "--format", "qcow2", "-o", disk, "debian", timeout_s=600)
        vmm.ok("image", "import", disk, name, timeout_s=300)
    return name


def test_a_disk_that_boots_itself_is_entered_by_ssh_as_the_seeds_user(tmp_path: Path) -> None:
    need("root", "qemu", "kernel", "guest-helper", "mmdebstrap", "syslinux")
    vmm, name = CommandLine(shared_home()), "disk-under-test"
    image = bootable_debian(vmm, tmp_path)
    vmm.run("rm", "-f", name)
    try:
        vmm.ok("run", "--vm", "-d", "--name", name, image, timeout_s=120)
        vmm.ok("wait", "--for", "ssh-ready", "--timeout", "300", name, timeout_s=310)
        deadline = time.monotonic() + 240
        while vmm.run(
            "exec", name, "true", timeout_s=60
        ).returncode:  # cloud-init makes the user after sshd began
            assert time.monotonic() < deadline
            time.sleep(2)
        assert vmm.inspect(name)["access"][0] == "ssh"
        done = vmm.run("exec", name, "sh", "-c", "id -u; id -un >&2; exit 4")
        assert (done.returncode, done.stdout, done.stderr) == (4, "0\n", "root\n")
        assert vmm.run("exec", name, "/no/such/program").returncode == 127
        assert vmm.ok("exec", "-u", "vmm", name, "id", "-un") == "vmm\n"
        (tmp_path / "file").write_bytes(b"\0\1\2" * 50_000)
        vmm.ok("cp", str(tmp_path / "file"), f"{name}:/home/vmm/there")
        vmm.ok("cp", f"{name}:/home/vmm/there", str(tmp_path / "back"))
        assert (tmp_path / "back").read_bytes() == (tmp_path / "file").read_bytes()
        stopped = vmm.run("stop", "-t", "60", name, timeout_s=90)
        assert (stopped.returncode, stopped.stderr) == (0, ""), "its power button was heard"
        assert vmm.ls()[name]["status"] == 0
    finally:
        vmm.run("rm", "-f", name)


def test_clones_of_a_machine_that_stood_still_are_machines_of_their_own() -> None:
    look = (
        "sh",
        "-c",
        "hostname; cat /etc/machine-id; cut -d' ' -f2 /etc/ssh/ssh_host_ed25519_key.pub; cat /root/kept",
    )
    names = ("origin-under-test", "linked-under-test", "full-under-test")
    with started(names[0], "debian", "/sbin/init") as vmm:
        vmm.ok("wait", "--for", "ssh-ready", "--timeout", "300", names[0], timeout_s=310)
        vmm.ok("exec", names[0], "sh", "-c", "echo kept > /root/kept; sync")
        told = [vmm.ok("exec", names[0], *look).split()]
        machine_of(names[0]).driver.press_power()  # as virsh shutdown would; `vmm stop` asks the helper
        vmm.ok("wait", names[0], timeout_s=60)
        try:
            for name, flags in ((names[1], ()), (names[2], ("--full",))):
                vmm.ok("clone", *flags, names[0], name, timeout_s=300)
                vmm.ok("start", name, timeout_s=200)
                vmm.ok("wait", "--for", "ssh-ready", "--timeout", "300", name, timeout_s=310)
                told.append(vmm.ok("exec", name, *look).split())
                with ssh.connected(machine_of(name)) as line:
                    assert line.get_remote_server_key().get_base64() == told[-1][2]
                vmm.ok("kill", name)
        finally:
            for name in names[1:]:
                vmm.run("rm", "-f", name)
    assert [lines[0] for lines in told] == list(names)
    for position, what in ((1, "machine-id"), (2, "host key")):
        assert len({lines[position] for lines in told}) == 3, what
    assert {lines[3] for lines in told} == {"kept"}
