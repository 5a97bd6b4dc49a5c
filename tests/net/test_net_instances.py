"""Networks by the real command line: containers and machines that join, talk by name, publish, and leave."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from capabilities import need
from commandline import CommandLine
from test_net_members import _eventually, _reply, _vmm_links

from host.linux.net import nftables

SERVE = "while :; do echo hello | nc -l -p 80; done"


@pytest.fixture
def vmm(lab: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CommandLine]:
    """The command line in a network namespace of the test's own; nothing of it stays."""
    need("root", "overlay", "cgroup", "guest-helper")
    monkeypatch.delenv("VMM_NETWORK", raising=False)
    line = CommandLine(lab)
    yield line
    line.run("rm", "-f", "--all")
    line.run("network", "prune")
    assert _eventually(lambda: _vmm_links() == []), _vmm_links()
    assert nftables.elements("ports") == nftables.elements("bridges") == []


def test_containers_talk_by_name_and_publish_live(vmm: CommandLine) -> None:
    vmm.ok("run", "-d", "--name", "web", "-p", "8080:80", "tiny", "sh", "-c", SERVE)
    assert _reply(8080) == "hello"
    told = vmm.ok(
        "run", "--rm", "--name", "client", "tiny", "sh", "-c", "nc -w 3 web 80 < /dev/null; cat /etc/hosts"
    )
    assert told.startswith("hello\n")
    assert "client" in told
    assert vmm.ok("port", "web").split() == ["80/tcp", "->", "127.0.0.1:8080"]
    vmm.ok("port", "web", "--add", "8081:80", "--remove", "8080:80")
    assert _reply(8081) == "hello"
    assert _reply(8080) == "ECONNREFUSED"
    vmm.ok("restart", "--time", "0", "web")
    assert _reply(8081) == "hello"  # kept in its record
    vmm.ok("rm", "-f", "web")
    assert _reply(8081) == "ECONNREFUSED"


def test_network_is_connected_to_a_running_container_and_kept(vmm: CommandLine) -> None:
    vmm.ok("network", "create", "lan", "--subnet", "10.99.0.0/24", "--lease", "web=10.99.0.9")
    vmm.ok("run", "-d", "--name", "web", "--network", "none", "tiny", "sh", "-c", SERVE)
    vmm.ok("network", "connect", "lan", "web", "--alias", "www")
    ask = ("run", "--rm", "--network", "lan", "tiny", "nc", "-w", "3", "www", "80")
    assert vmm.ok(*ask) == "hello\n"
    (told,) = json.loads(vmm.ok("network", "inspect", "lan"))["networks"]
    assert [(one["member"], one["ip"], one["alive"]) for one in told["members"]] == [
        ("web", "10.99.0.9", True)
    ]
    assert "web on it" in vmm.run("network", "rm", "lan").stderr
    assert "on the network lan already" in vmm.run("network", "connect", "lan", "web").stderr
    vmm.ok("stop", "--time", "0", "web")
    vmm.ok("start", "web")
    assert vmm.ok(*ask) == "hello\n"
    vmm.ok("network", "disconnect", "lan", "web")
    assert "not on the network" in vmm.run("network", "disconnect", "lan", "web").stderr
    assert "eth0" not in vmm.ok("exec", "web", "ip", "link")
    assert vmm.ok("network", "rm", "lan") == "lan\n"
    assert "cannot find the network" in vmm.run("network", "rm", "lan").stderr


def test_port_in_use_is_one_error_and_leaves_nothing(vmm: CommandLine) -> None:
    vmm.ok("run", "-d", "--name", "web", "-p", "8080:80", "tiny", "sleep", "100")
    told = vmm.run("run", "--name", "other", "-p", "8080:80", "tiny", "true")
    assert told.returncode == 125
    assert "web has it" in told.stderr
    assert vmm.ok("ls", "-a", "-q").count("\n") == 1
    assert vmm.run("run", "--rm", "--network", "nowhere", "tiny", "true").returncode == 125


def test_many_starts_at_once(vmm: CommandLine) -> None:
    vmm.ok("run", "--rm", "tiny", "true")
    ask = ("run", "--rm", "tiny", "ip", "-o", "-4", "addr", "show", "eth0")
    running = [subprocess.Popen(vmm.argv(*ask), stdout=-1, text=True, env=vmm.env) for _ in range(8)]
    told = [one.communicate(timeout=60)[0].split()[3] for one in running]
    assert len(set(told)) == 8


def test_plan_of_a_network_needs_no_rights(vmm: CommandLine) -> None:
    vmm.ok("network", "create", "lan")
    told = vmm.ok("network", "explain", "lan")
    assert "ip link add" in told
    assert "nft -f -" in told


@pytest.fixture
def kernels() -> Path:
    """Debian's kernel, fetched while the test still has the host's network."""
    need("root", "qemu", "kernel")
    from images.kernels import guest_kernel

    home = Path(os.environ.get("VMM_TEST_HOME", "/var/tmp/vmm-test-home"))  # that of all machine tests
    guest_kernel(home, "cloud")
    return home / "cache" / "kernels"


@pytest.mark.slow
@pytest.mark.machine
def test_machine_and_container_reach_each_other_by_name(kernels: Path, vmm: CommandLine) -> None:
    (vmm.home / "cache").mkdir(parents=True, exist_ok=True)
    (vmm.home / "cache" / "kernels").symlink_to(kernels)
    vmm.ok("run", "-d", "--name", "web", "tiny", "sh", "-c", SERVE)
    network = ("--vm", "--network", "bridge")
    script = "ping -c 1 -W 5 web && nc -w 5 web 80 < /dev/null"
    told = vmm.ok("run", "--rm", *network, "tiny", "sh", "-c", script)
    assert "1 packets received" in told
    assert told.endswith("hello\n")
    vmm.ok("run", "-d", "--name", "box", *network, "-p", "8085:80", "tiny", "sh", "-c", SERVE)
    assert _reply(8085) == "hello"
    assert vmm.ok("run", "--rm", "tiny", "nc", "-w", "5", "box", "80") == "hello\n"
    vmm.ok("port", "box", "--add", "8086:80")
    assert _reply(8086) == "hello"
    vmm.ok("rm", "-f", "box")
    time.sleep(0.1)
    assert _reply(8085) == "ECONNREFUSED"
    assert list(vmm.ls()) == ["web"]
