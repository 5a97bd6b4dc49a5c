"""The Debian base: a container's root and a machine, whose real cloud-init obeys a seed."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
from capabilities import need
from commandline import CommandLine
from image_servers import free_port

from images import aptsources, debian
from images.merged import Merged
from images.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

USER_DATA = """#cloud-config
hostname: seeded
users:
  - name: student
    shell: /bin/bash
    sudo: ALL=(ALL) NOPASSWD:ALL
    ssh_authorized_keys: ["{key}"]
write_files:
  - {{path: /etc/written, content: "by cloud-init", permissions: '0640'}}
runcmd:
  - [sh, -c, "echo ran >/run-command"]
"""
# Slirp forwards to 10.0.2.15; the second address is one that no DHCP server of QEMU's would give. The card is
# known by QEMU's first MAC: cloud-init 22.4 knows no patterns of names, and no `to: default`.
NETWORK = """version: 2
ethernets:
  card:
    match: {macaddress: "52:54:00:12:34:56"}
    set-name: lan0
    dhcp4: false
    addresses: [10.0.2.15/24, 192.168.77.5/24]
    routes: [{to: 0.0.0.0/0, via: 10.0.2.2}]
    nameservers: {addresses: [10.0.2.3]}
"""
ASKED = """sudo cloud-init status --wait; hostname; sudo cat /etc/written; echo; stat -c %a /etc/written
cat /run-command; id -un; ip -4 -o addr show scope global | awk '{print $2, $4, ($0 ~ /dynamic/)}'
ip route show default | cut -d' ' -f1-3; grep nameserver /etc/resolv.conf"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("root", "mmdebstrap", "qemu", "cgroup")
    home = tmp_path_factory.mktemp("debian")
    CommandLine(home).ok("image", "build", "--base", "debian", timeout_s=600)
    return home


def test_it_is_a_containers_root(home: Path) -> None:
    said = CommandLine(home).ok(
        "run", "--ct", "--rm", "--network", "none", "debian", "cat", "/etc/os-release"
    )
    assert f"VERSION_CODENAME={aptsources.codename()}" in said


def test_no_key_and_no_identity_lie_in_the_image(home: Path) -> None:
    store = Store(home)
    tree = Merged(store.lower_dirs(store.resolve("debian")))
    assert not [name for name in tree.names(("etc", "ssh")) if name.startswith("ssh_host_")]
    found = tree.find("/etc/machine-id")
    assert found is not None
    assert found.status.st_size == 0
    shadow = tree.find("/etc/shadow")
    assert shadow is not None
    assert "\nroot:*:" in "\n" + shadow.path.read_text()


@pytest.mark.machine
def test_cloud_init_obeys_a_seed(home: Path, tmp_path: Path) -> None:
    need("guest-helper", "kernel")
    key, vmm, port = tmp_path / "key", CommandLine(home), free_port()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    seed = tmp_path / "seed.yaml"
    seed.write_text(USER_DATA.format(key=key.with_suffix(".pub").read_text().strip()))
    network = tmp_path / "network.yaml"
    network.write_text(NETWORK)
    argv = ["run", "-d", "--vm", "--name", "m", "-p", f"127.0.0.1:{port}:22"]
    argv += ["--cloud-init", str(seed), "--network-config", str(network)]
    vmm.ok(*argv, "debian", "/sbin/init", timeout_s=200)
    try:
        said = ask(port, key)
    finally:
        vmm.ok("rm", "-f", "m")
    assert said.lstrip(".\n").splitlines() == [
        "status: done",
        "seeded",
        "by cloud-init",
        "640",
        "ran",
        "student",
        "lan0 10.0.2.15/24 0",
        "lan0 192.168.77.5/24 0",
        "default via 10.0.2.2",
        "nameserver 10.0.2.3",
    ]


def ask(port: int, key: Path) -> str:
    """Ask over SSH until the answer is whole, 5 minutes at most."""
    options = [
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "ConnectTimeout=60",
        "BatchMode=yes",
    ]
    argv = ["ssh", "-i", str(key), "-p", str(port), *(word for one in options for word in ("-o", one))]
    deadline, done = time.monotonic() + 300, None
    while time.monotonic() < deadline:
        done = subprocess.run(
            [*argv, "student@127.0.0.1", ASKED], capture_output=True, text=True, check=False
        )
        if done.returncode == 0 and "done" in done.stdout:
            return done.stdout
        time.sleep(3)
    pytest.fail(f"no answer: {done}")


def test_the_plan_names_the_hosts_own_sources() -> None:
    sources = [aptsources.Source("http://a/debian", "trixie", "main", "/k.gpg")]
    argv = debian.plan("trixie", sources, ['Acquire::http::Proxy "http://p:3128"'])
    assert argv[-3:] == ["trixie", "-", "deb [signed-by=/k.gpg] http://a/debian trixie main"]
    assert '--aptopt=Acquire::http::Proxy "http://p:3128"' in argv


def test_sources_are_read_in_both_forms_and_moved_to_another_suite(tmp_path: Path) -> None:
    parts = tmp_path / "apt" / "sources.list.d"
    parts.mkdir(parents=True)
    (tmp_path / "os-release").write_text("VERSION_CODENAME=bookworm\n")
    (tmp_path / "apt" / "sources.list").write_text(
        "# deb http://no\ndeb [arch=amd64 signed-by=/k] http://a bookworm main contrib # c\n"
        "deb-src http://a bookworm main\n"
    )
    (parts / "x.sources").write_text(
        "Types: deb deb-src\nURIs: http://b\nSuites: bookworm-updates other\nComponents: main\n\n"
        "Types: deb\nEnabled: no\nURIs: http://c\nSuites: bookworm\nComponents: main\n"
    )
    assert aptsources.of_host("", tmp_path) == [
        aptsources.Source("http://a", "bookworm", "main contrib", "/k"),
        aptsources.Source("http://b", "bookworm-updates", "main"),
    ]
    moved = aptsources.of_host("trixie", tmp_path)
    assert [source.suite for source in moved] == ["trixie", "trixie-updates"]
