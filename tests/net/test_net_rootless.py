"""slirp4netns for an ordinary user's namespaces: a way out, published ports, and nothing left."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from capabilities import ORDINARY_USER, need
from test_net_members import _reply

from host import paths
from host.errors import Failure, InUse
from host.linux import net
from host.linux.net import netlink, rootless


@pytest.fixture
def sandbox() -> Iterator[subprocess.Popen[bytes]]:
    """A user and network namespace of an ordinary user, with a server on port 80."""
    need("slirp4netns", "userns", "user", "root")
    server = [
        "sh",
        "-c",
        'echo; exec "$@"',
        "sh",
        "busybox",
        "nc",
        "-ll",
        "-p",
        "80",
        "-e",
        "echo",
        "rootless",
    ]
    argv = [
        "setpriv",
        "--reuid",
        ORDINARY_USER,
        "--regid",
        ORDINARY_USER,
        "--clear-groups",
        "unshare",
        "-Urn",
    ]
    with subprocess.Popen([*argv, *server], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        yield process
        process.kill()


@pytest.mark.usefixtures("own_network")
def test_ports_reach_a_rootless_namespace_and_nothing_stays(
    sandbox: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    lease = net.slirp("web", sandbox.pid, tmp_path, net.parse_ports("8080:80"))
    assert _reply(8080) == "rootless"
    assert (lease.ip, lease.dns, lease.kind) == ("10.0.2.100", "10.0.2.3", "slirp")
    rootless.add_ports(tmp_path, net.parse_ports("8081:80"))
    assert _reply(8081) == "rootless"
    rootless.remove_ports(tmp_path, net.parse_ports("8080:80"))
    assert _reply(8080) == "ECONNREFUSED"
    with pytest.raises(InUse):
        rootless.add_ports(tmp_path, net.parse_ports("8081:80"))
    pid = rootless.running(tmp_path)
    assert pid
    net.unslirp(tmp_path)
    assert _reply(8081) == "ECONNREFUSED"
    assert os.listdir(tmp_path) == []
    net.unslirp(tmp_path)


@pytest.mark.usefixtures("own_network")
def test_port_in_use_ends_slirp_again(sandbox: subprocess.Popen[bytes], tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 8080)), pytest.raises(InUse):
        net.slirp("web", sandbox.pid, tmp_path, net.parse_ports("8080:80"))
    assert rootless.running(tmp_path) == 0
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("own_network")
def test_left_slirp_is_recognised_by_the_next_command(
    sandbox: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    net.slirp("web", sandbox.pid, tmp_path)
    first = rootless.running(tmp_path)
    sandbox.kill()
    sandbox.wait()
    assert rootless.running(tmp_path) == first  # it holds the TAP and does not see the death
    net.unslirp(tmp_path)
    time.sleep(0.01)
    assert not Path(f"/proc/{first}/cmdline").exists() or not Path(f"/proc/{first}/cmdline").read_bytes()


@pytest.mark.usefixtures("own_network")
def test_errors_are_told(tmp_path: Path) -> None:
    need("slirp4netns", "root")
    with pytest.raises(Failure, match="it has ended"):
        net.slirp("web", 2**22 - 1, tmp_path)
    assert os.listdir(tmp_path) == []
    assert netlink.index_of("eth0") == 0


@pytest.mark.slow
@pytest.mark.usefixtures("own_network")
def test_a_users_container_has_a_network_and_ports(tmp_path: Path) -> None:
    """The whole command as an ordinary user, by the distribution's python3."""
    need("slirp4netns", "userns", "user", "root", "overlay", "guest-helper", "busybox")
    python = Path("/usr/bin/python3")
    if not python.exists():
        pytest.skip("needs the distribution's python3")
    home = Path(tempfile.mkdtemp(prefix="rootless-", dir="/tmp"))  # pytest's folders are root's alone
    shutil.chown(home, ORDINARY_USER, ORDINARY_USER)
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    script = f"""
        export HOME={home} VMM_HOME={home}/home XDG_RUNTIME_DIR={home} PYTHONDONTWRITEBYTECODE=1
        export PYTHONPATH={Path.cwd()}:{packages} VMM_GUEST={paths.guest_helper()}
        vmm() {{ {python} -m cli.main "$@"; }}
        vmm run -d --name web -p 8089:80 tiny sh -c 'while :; do echo rootless | nc -l -p 80; done' || exit
        vmm port web --add 8090:80 && busybox nc -w 5 127.0.0.1 8089 && busybox nc -w 5 127.0.0.1 8090
        vmm rm -f web
        vmm run --rm --network lan tiny true
    """
    # /dev/net/tun is everybody's where udev makes it; here root's alone may be what the host has
    setup = 'mount -t tmpfs t /dev/net && mknod -m 666 /dev/net/tun c 10 200 && exec "$@"'
    user = ["setpriv", "--reuid", ORDINARY_USER, "--regid", ORDINARY_USER, "--init-groups"]
    argv = ["unshare", "-m", "sh", "-c", setup, "sh", *user, "sh", "-c", script]
    try:
        told = subprocess.run(
            argv, capture_output=True, text=True, stdin=-3, timeout=120, cwd="/", check=False
        )
        assert told.stdout.count("rootless\n") == 2, told.stderr
        assert "bridges belong to root" in told.stderr
        assert _reply(8089) == "ECONNREFUSED"
    finally:
        shutil.rmtree(home, ignore_errors=True)
