"""libvirt as one has it: by URI, on shared networks, with a life of its own, killed under its machines."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import leaks
import pytest
from capabilities import ORDINARY_USER, need
from machines import shared_home
from own_libvirt import Libvirt, own_libvirt

pytestmark = [pytest.mark.machine, pytest.mark.slow]
RUN = ("run", "--vm", "--driver", "libvirt")
WEB = "mkdir /w; echo $ME > /w/index.html; httpd -f -h /w"


@pytest.fixture(scope="module")
def vmm() -> Iterator[Libvirt]:
    """`vmm` with a libvirt that nobody else sees."""
    need("root", "libvirt", "qemu", "kernel", "busybox", "guest-helper")
    with own_libvirt(shared_home()) as there:
        yield there


@contextmanager
def removed(vmm: Libvirt, *names: str) -> Iterator[None]:
    """Instances of these names are gone afterwards, and nothing of theirs is left, in libvirt neither."""
    try:
        yield
    finally:
        vmm.run("rm", "-f", *names)
    until(lambda: not left(vmm, *names))


def left(vmm: Libvirt, *names: str) -> list[str]:
    """What carries one of the names; other tests work in the same home meanwhile."""
    lines = [*leaks.snapshot(vmm.home), *vmm.virsh("list", "--all").splitlines()]
    return [line for line in lines if any(name in line for name in names)]


def until(true: object, timeout_s: float = 15) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.1)


def reached(port: int) -> bytes:
    """What an HTTP server on a port of this host says, empty where none answers."""
    try:
        with socket.create_connection(("127.0.0.1", port), 2) as line:
            line.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return b"".join(iter(lambda: line.recv(4096), b""))
    except OSError:
        return b""


def test_a_machine_and_a_container_share_a_network_by_name(vmm: Libvirt) -> None:
    need("nft", "dnsmasq", "overlay", "cgroup")
    vmm.ok("network", "create", "lv-lan")
    try:
        with removed(vmm, "lv-ct", "lv-vm"):
            lan, web = ("-d", "--network", "lv-lan"), ("tiny", "sh", "-c", WEB)
            vmm.ok("run", *lan, "--name", "lv-ct", "-e", "ME=lv-ct", *web)
            vmm.ok(*RUN, *lan, "--name", "lv-vm", "-e", "ME=lv-vm", "-p", "18085:80", *web)
            assert vmm.ok("exec", "lv-vm", "ping", "-c1", "-W5", "lv-ct")
            assert vmm.ok("exec", "lv-vm", "wget", "-qO-", "http://lv-ct/") == "lv-ct\n"
            assert vmm.ok("exec", "lv-ct", "wget", "-qO-", "http://lv-vm/") == "lv-vm\n"
            assert b"lv-vm" in reached(18085)
            vmm.ok("port", "lv-vm", "--add", "18086:80")
            assert b"lv-vm" in reached(18086)
            vmm.ok("port", "lv-vm", "--remove", "18086:80")
            assert not reached(18086)
            address = vmm.ok("exec", "lv-vm", "ip", "-4", "addr", "show", "eth0")
            vmm.ok("stop", "-t", "3", "lv-vm")
            vmm.ok("start", "lv-vm")
            again = vmm.ok("exec", "lv-vm", "ip", "-4", "addr", "show", "eth0")
            assert again.split("inet ")[1].split()[0] == address.split("inet ")[1].split()[0]
    finally:
        vmm.run("network", "rm", "lv-lan")


def test_forwards_of_the_user_network_come_and_go_and_stay_for_the_next_start(vmm: Libvirt) -> None:
    with removed(vmm, "lv-fwd"):
        vmm.ok(*RUN, "-d", "--name", "lv-fwd", "-e", "ME=lv-fwd", "tiny", "sh", "-c", WEB)
        vmm.ok("port", "lv-fwd", "--add", "18087:80")
        until(lambda: b"lv-fwd" in reached(18087))
        vmm.ok("restart", "-t", "3", "lv-fwd")
        until(lambda: b"200 OK" in reached(18087))
        vmm.ok("port", "lv-fwd", "--remove", "18087:80")
        assert not reached(18087)


def test_a_rename_takes_the_definition_along(vmm: Libvirt) -> None:
    with removed(vmm, "lv-old", "lv-new"):
        vmm.ok(*RUN, "-d", "--name", "lv-old", "--network", "none", "tiny", "sleep", "600")
        vmm.ok("stop", "-t", "3", "lv-old")
        vmm.ok("rename", "lv-old", "lv-new")
        vmm.ok("start", "lv-new")
        listed = vmm.virsh("list", "--all", "--name")
        assert "lv-new" in listed
        assert "lv-old" not in listed


def test_a_killed_libvirtd_loses_no_machine(vmm: Libvirt) -> None:
    with removed(vmm, "lv-keep"):
        vmm.ok(*RUN, "-d", "--name", "lv-keep", "--network", "none", "tiny", "sleep", "600")
        pid = vmm.inspect("lv-keep")["pid"]
        vmm.kill("libvirtd")
        assert vmm.ls()["lv-keep"]["state"] == "running"
        assert vmm.ok("exec", "lv-keep", "echo", "in") == "in\n"
        assert vmm.pid_of("libvirtd") == 0, "looking and exec need no libvirt"
        vmm.ok("pause", "lv-keep")
        assert vmm.pid_of("libvirtd"), "root without a service manager gets its daemon back"
        assert vmm.ls()["lv-keep"]["state"] == "paused"
        vmm.ok("resume", "lv-keep")
        vmm.kill("libvirtd", signal.SIGTERM)
        vmm.start()
        assert vmm.inspect("lv-keep")["pid"] == pid
        assert "lv-keep" in vmm.virsh("list", "--name")


def test_a_run_in_the_foreground_outlives_its_libvirtd(vmm: Libvirt) -> None:
    words = vmm.argv(
        *RUN, "--rm", "--name", "lv-fg", "--network", "none", "tiny", "sh", "-c", "echo up; sleep 3; exit 3"
    )
    with removed(vmm, "lv-fg"), subprocess.Popen(words, env=vmm.env, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        vmm.kill("libvirtd")
        vmm.start()
        assert process.wait(30) == 3


def test_a_stopped_qemu_is_told_and_nothing_waits_for_it(vmm: Libvirt) -> None:
    with removed(vmm, "lv-stop"):
        vmm.ok(*RUN, "-d", "--name", "lv-stop", "--network", "none", "tiny", "sleep", "600")
        pid = int(vmm.inspect("lv-stop")["pid"])
        os.kill(pid, signal.SIGSTOP)
        assert vmm.ls()["lv-stop"]["state"] == "unresponsive"
        done = vmm.run("pause", "lv-stop", timeout_s=10)
        assert done.returncode == 1
        assert "does not answer" in done.stderr
        os.kill(pid, signal.SIGCONT)
        assert vmm.ls()["lv-stop"]["state"] == "running"
        vmm.ok("pause", "lv-stop")


def test_one_that_virsh_undefined_starts_again(vmm: Libvirt) -> None:
    with removed(vmm, "lv-und"):
        vmm.ok(*RUN, "-d", "--name", "lv-und", "--network", "none", "tiny", "sleep", "600")
        name = vmm.virsh("list", "--name").split()[0]
        vmm.virsh("destroy", name)
        vmm.virsh("undefine", name)
        assert vmm.ls()["lv-und"]["state"] == "exited"
        vmm.ok("start", "lv-und")
        assert vmm.ls()["lv-und"]["state"] == "running"


@contextmanager
def sshd(vmm: Libvirt, folder: Path) -> Iterator[tuple[int, Path]]:
    """An sshd on loopback that lets one key in, where the test's libvirt is; its port and the key."""
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    lines = [f"ListenAddress 127.0.0.1:{port}", f"HostKey {folder}/host", "StrictModes no", "UsePAM no"]
    lines += [f"AuthorizedKeysFile {folder}/user.pub", "PidFile none", "PermitRootLogin yes"]
    (folder / "sshd_config").write_text("\n".join(lines) + "\n")
    subprocess.run([*vmm.enter(), "mkdir", "-p", "/run/sshd"], check=True)
    words = [*vmm.enter(), "/usr/sbin/sshd", "-D", "-e", "-f", str(folder / "sshd_config")]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as daemon:
        until(lambda: _listens(port))
        try:
            yield port, folder / "user"
        finally:
            daemon.terminate()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def test_libvirt_over_ssh(vmm: Libvirt, tmp_path: Path) -> None:
    need("sshd")
    with sshd(vmm, tmp_path) as (port, key):
        uri = f"qemu+ssh://root@127.0.0.1:{port}/system?keyfile={key}&no_verify=1&no_tty=1"
        with removed(vmm, "lv-ssh"):
            vmm.ok(
                "run",
                "--vm",
                "--connect",
                uri,
                "-d",
                "--name",
                "lv-ssh",
                "--network",
                "none",
                "tiny",
                "sleep",
                "600",
            )
            assert vmm.inspect("lv-ssh")["spec"]["uri"] == uri
            assert vmm.ok("exec", "lv-ssh", "echo", "in") == "in\n"
            vmm.ok("pause", "lv-ssh")
            assert vmm.ls()["lv-ssh"]["state"] == "paused"
            assert "paused" in vmm.virsh("list")
    done = vmm.run("run", "--connect", uri, "--vm", "--rm", "--network", "none", "tiny", "true")
    assert done.returncode == 125
    assert "cannot reach libvirt" in done.stderr
    assert "ssh 127.0.0.1 virsh list" in done.stderr
    assert "lv-ssh" not in vmm.ls()


def test_a_host_that_does_not_see_our_files_is_refused_before_the_start(vmm: Libvirt, tmp_path: Path) -> None:
    """The other host is a second mount namespace, whose /run/vmm is another one."""
    need("sshd")
    subprocess.run(["mkdir", "-p", "/run/vmm"], check=True)
    with own_libvirt(shared_home()) as other:
        subprocess.run([*other.enter(), "mount", "-t", "tmpfs", "tmpfs", "/run/vmm"], check=True)
        with sshd(other, tmp_path) as (port, key):
            uri = f"qemu+ssh://root@127.0.0.1:{port}/system?keyfile={key}&no_verify=1&no_tty=1"
            done = vmm.run("run", "--vm", "--connect", uri, "--rm", "--network", "none", "tiny", "true")
            assert done.returncode == 125
            assert "does not see the files of this host" in done.stderr
            assert other.virsh("pool-list", "--all").strip() == ""


def test_the_session_of_an_ordinary_user(tmp_path_factory: pytest.TempPathFactory) -> None:
    need("root", "user", "libvirt", "qemu", "kernel", "busybox", "guest-helper")
    import pwd
    import sys

    uid = pwd.getpwnam(ORDINARY_USER).pw_uid
    folder = Path("/var/tmp", f"vmm-session-{os.getpid()}")
    run = Path("/tmp", f"vmm-xdg-{os.getpid()}")
    for one in (folder, run):
        one.mkdir(mode=0o700)
        os.chown(one, uid, -1)
    env = {"VMM_HOME": f"{folder}/home", "XDG_RUNTIME_DIR": str(run), "VMM_ACCEL": "tcg", "HOME": str(folder)}

    def user(*words: str) -> subprocess.CompletedProcess[str]:
        argv = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *words]
        path = {"PATH": os.environ["PATH"], "PYTHONPATH": os.getcwd()}
        return subprocess.run(
            argv, capture_output=True, text=True, timeout=120, env={**path, **env}, check=False
        )

    vmm = (sys.executable, "-m", "cli.main")
    try:
        done = user(
            *vmm, "run", "-d", "--name", "mine", "--vm", "--driver", "libvirt", "tiny", "sleep", "600"
        )
        assert done.returncode == 0, done.stderr
        assert "mine" in user("virsh", "-c", "qemu:///session", "list", "--name").stdout
        assert user(*vmm, "exec", "mine", "echo", "in").stdout == "in\n"
        assert user(*vmm, "rm", "-f", "mine").returncode == 0
        assert "mine" not in user("virsh", "-c", "qemu:///session", "list", "--all").stdout
    finally:
        subprocess.run(["pkill", "-u", ORDINARY_USER, "-f", str(run)], check=False)
        for name in ("libvirtd", "virtlogd"):
            for file in run.glob(f"libvirt/{name}.pid"):
                os.kill(int(file.read_text()), signal.SIGTERM)
        subprocess.run(["rm", "-rf", "--one-file-system", folder, run], check=False)


def test_one_that_starts_with_the_host(vmm: Libvirt) -> None:
    """As after a boot of the host: no QEMU, no run directory, a libvirtd that has autostarted nothing yet."""
    from host import paths

    asked = ("--autostart", "--memory", "256M", "-p", "18089:80", "--append", "systemd.unit=none")
    with removed(vmm, "lv-auto"):
        vmm.ok(*RUN, "-d", "--name", "lv-auto", *asked, "tiny", "/sbin/init")
        assert "lv-auto" in vmm.virsh("list", "--name", "--autostart", "--all")
        first = int(vmm.inspect("lv-auto")["pid"])
        os.kill(first, signal.SIGKILL)
        until(lambda: vmm.ls()["lv-auto"]["state"] == "exited")
        vmm.kill("libvirtd", signal.SIGTERM)
        assert not (paths.run_dir(vmm.home) / "lv-auto").exists(), "nothing of it is where a boot clears away"
        subprocess.run([*vmm.enter(), "rm", "-f", "/run/libvirt/qemu/autostarted"], check=True)
        vmm.start()
        until(lambda: vmm.ls()["lv-auto"]["state"] != "exited")
        assert vmm.ok("exec", "lv-auto", "echo", "in") == "in\n"
        assert "18089" in vmm.ok("port", "lv-auto")


def test_autostart_is_refused_where_it_could_not_work(vmm: Libvirt) -> None:
    done = vmm.run("create", "--vm", "--autostart", "--driver", "qemu", "tiny", "/sbin/init")
    assert (done.returncode, "nobody would start" in done.stderr) == (125, True)
    done = vmm.run("create", "--vm", "--autostart", "--driver", "libvirt", "tiny", "sleep", "9")
    assert (done.returncode, "tell it its command" in done.stderr) == (125, True)


NETWORK = """<network><name>lv-net</name><bridge name='lvnet0'/>
<ip address='10.99.7.1' netmask='255.255.255.0'>
<dhcp><range start='10.99.7.10' end='10.99.7.12'/></dhcp></ip></network>"""


def test_a_volume_of_libvirts_own_pool_is_a_disk_live_and_from_the_next_start(
    vmm: Libvirt, tmp_path: Path
) -> None:
    for above in (tmp_path, *tmp_path.parents[:3]):
        above.chmod(above.stat().st_mode | 0o011)
    vmm.virsh("pool-define-as", "lv-pool", "dir", "--target", str(tmp_path))  # defined, and resting
    with removed(vmm, "lv-vol", "lv-qemu"):
        vmm.ok(*RUN, "-d", "--name", "lv-vol", "--network", "none", "--boot", "pvh", "tiny", "sleep", "600")
        done = vmm.run("update", "--add-disk", "data=libvirt:lv-pool/nosuch", "lv-vol")
        assert done.returncode == 1
        assert "no storage vol with matching name" in done.stderr
        assert "virsh vol-list lv-pool" in done.stderr
        vmm.virsh("vol-create-as", "lv-pool", "data", "64M", "--format", "qcow2")
        assert "in force" in vmm.ok("update", "--add-disk", "data=libvirt:lv-pool/data", "lv-vol")
        look = ("exec", "lv-vol", "sh", "-c", "cat /sys/block/vd*/size")
        assert vmm.ok(*look).split()[-1] == str((64 << 20) // 512)
        vmm.ok("stop", "--time", "1", "lv-vol")
        vmm.ok("start", "lv-vol")
        assert vmm.ok(*look).split()[-1] == str((64 << 20) // 512)
        assert str(tmp_path / "data") in vmm.virsh("domblklist", vmm.virsh("list", "--name").split()[0])
        vmm.ok("run", "--vm", "-d", "--name", "lv-qemu", "--network", "none", "tiny", "sleep", "600")
        done = vmm.run("update", "--add-disk", "data=libvirt:lv-pool/data", "lv-qemu")
        assert "virsh vol-path" in done.stderr
    assert "data" in vmm.virsh("vol-list", "lv-pool"), "a volume is the pool's, and stays"


def test_a_network_of_libvirts_own_gives_a_static_lease_and_a_name(vmm: Libvirt, tmp_path: Path) -> None:
    need("dnsmasq")
    (tmp_path / "net.xml").write_text(NETWORK)
    vmm.virsh("net-define", str(tmp_path / "net.xml"))
    try:
        with removed(vmm, "lv-a", "lv-b"):
            for name in ("lv-a", "lv-b"):
                vmm.ok(*RUN, "-d", "--name", name, "--network", "libvirt:lv-net", "tiny", "sleep", "600")
            assert "10.99.7.10/24" in vmm.ok("exec", "lv-a", "ip", "-4", "addr")
            assert vmm.ok("exec", "lv-b", "ping", "-c1", "-W5", "lv-a")
            assert "name='lv-b'" in vmm.virsh("net-dumpxml", "lv-net")
            vmm.ok("restart", "-t", "3", "lv-b")
            assert "10.99.7.11/24" in vmm.ok("exec", "lv-b", "ip", "-4", "addr")
        assert "lv-b" not in vmm.virsh("net-dumpxml", "lv-net"), "a removed machine gives its lease back"
        done = vmm.run(*RUN, "--rm", "--network", "libvirt:nosuch", "tiny", "true")
        assert (done.returncode, "virsh net-list" in done.stderr) == (125, True)
    finally:
        vmm.virsh("net-destroy", "lv-net")
        vmm.virsh("net-undefine", "lv-net")
