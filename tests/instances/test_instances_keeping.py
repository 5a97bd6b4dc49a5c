"""Volumes outlive instances, limits change live, prune takes only what nobody uses, ports are told."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import leaks
import pytest
from capabilities import need
from commandline import CommandLine


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    need("root", "busybox", "guest-helper", "cgroup", "overlay")
    home = tmp_path_factory.mktemp("keeping") / "home"
    yield CommandLine(home)
    leaks.forget(home)


@pytest.fixture
def vmm(shared: CommandLine) -> Iterator[CommandLine]:
    yield shared
    shared.run("rm", "-f", "--all")


RUN = ("run", "--ct", "--network", "none")


def test_a_named_volume_outlives_its_instances(vmm: CommandLine) -> None:
    vmm.ok(*RUN, "--rm", "-v", "data:/data", "tiny", "sh", "-c", "echo kept > /data/file")
    assert vmm.ok(*RUN, "--rm", "-v", "data:/data:ro", "tiny", "cat", "/data/file") == "kept\n"
    assert vmm.run(*RUN, "--rm", "-v", "data:/data:ro", "tiny", "touch", "/data/x").returncode != 0
    vmm.ok("create", "--ct", "--name", "user", "-v", "data:/data", "tiny", "true")
    refused = vmm.run("volume", "rm", "data")
    assert refused.returncode == 1
    assert "used by user" in refused.stderr
    assert vmm.ok("volume", "prune") == ""
    vmm.ok("rm", "user")
    assert vmm.ok("volume", "prune") == "data\n"
    assert vmm.ok("volume", "ls", "-q") == ""


def test_a_folder_of_the_host_is_never_removed(vmm: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    vmm.ok(*RUN, "--rm", "-v", f"{tmp_path}:/x", "tiny", "sh", "-c", "cat /x/file; echo yours > /x/other")
    assert (tmp_path / "file").read_text() == "mine"
    assert (tmp_path / "other").read_text() == "yours\n"


def test_limits_change_while_it_runs_and_stay(vmm: CommandLine) -> None:
    vmm.ok(*RUN, "-d", "--name", "small", "--memory", "64M", "tiny", "sleep", "1000")
    assert vmm.ok("update", "--memory", "96M", "--pids-limit", "50", "small") == "small: in force\n"
    stats = json.loads(vmm.ok("stats", "--json", "small"))["instances"][0]
    assert stats["memory_limit_bytes"] == 96 << 20
    vmm.ok("restart", "--time", "0", "small")
    stats = json.loads(vmm.ok("stats", "--json", "small"))["instances"][0]
    assert stats["memory_limit_bytes"] == 96 << 20
    vmm.ok("stop", "--time", "0", "small")
    assert vmm.ok("update", "--cpus", "0.5", "small") == "small: from its next start\n"
    assert vmm.inspect("small")["spec"]["limits"]["cpus"] == 0.5


def test_prune_takes_what_stands_still_and_leaves_what_runs(vmm: CommandLine) -> None:
    vmm.ok(*RUN, "-d", "--name", "alive", "tiny", "sleep", "1000")
    vmm.ok("create", "--ct", "--name", "idle", "tiny", "true")
    vmm.ok("volume", "create", "spare")
    said = vmm.ok("prune", "-f")
    assert "instance idle" in said
    assert set(vmm.ls()) == {"alive"}
    assert vmm.ok("volume", "ls", "-q") == "spare\n"
    assert vmm.ok("exec", "alive", "echo", "well") == "well\n"
    assert "volume spare" in vmm.ok("prune", "-f", "--volumes")
    uses = {one["what"]: one for one in json.loads(vmm.ok("df", "--json"))["uses"]}
    assert uses["instances"]["active"] == 1
    assert uses["images"]["allocated_bytes"] > 0


def test_prune_does_not_go_on_without_being_asked_to(vmm: CommandLine) -> None:
    vmm.ok("create", "--ct", "--name", "idle", "tiny", "true")
    assert vmm.run("prune").returncode == 1
    assert set(vmm.ls()) == {"idle"}


def test_a_published_port_answers_and_is_told(vmm: CommandLine) -> None:
    need("nft", "dnsmasq")
    script = "mkdir /w; echo hello > /w/index.html; httpd -f -h /w"
    vmm.ok("run", "--ct", "-d", "--name", "web", "-p", "0:80", "tiny", "sh", "-c", script)
    place = vmm.ok("port", "web", "80").strip()
    assert place.startswith("127.0.0.1:")
    assert not place.endswith(":0")
    _answers(f"http://{place}/")
    assert vmm.run("port", "web", "81").returncode == 1


def _answers(url: str) -> None:
    import time

    deadline = time.monotonic() + 10
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2) as reply:
                assert reply.read() == b"hello\n"
                return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_ls_filters_and_forms(vmm: CommandLine) -> None:
    vmm.ok(*RUN, "-d", "--name", "a", "-l", "tier=front", "tiny", "sleep", "1000")
    vmm.ok("create", "--ct", "--name", "b", "-l", "tier=back", "tiny", "true")
    assert vmm.ok("ls", "-a", "--format", "{name}", "--filter", "label=tier=back") == "b\n"
    assert vmm.ok("ls", "--format", "{name} {state}") == "a running\n"
    assert vmm.ok("ls", "--format", "{{.Name}}", "--filter", "state=created") == "b\n"
    assert vmm.ok("ls", "-a", "--format", "{{json .Labels}}", "-f", "name=a") == '{"tier": "front"}\n'
    assert vmm.run("ls", "--filter", "colour=blue").returncode == 2
    assert vmm.run("ls", "--format", "{colour}").returncode == 2


def test_a_command_can_be_left_to_run_inside(vmm: CommandLine) -> None:
    vmm.ok(*RUN, "-d", "--name", "busy", "tiny", "sleep", "1000")
    assert vmm.ok("exec", "-d", "busy", "sh", "-c", "echo done > /told; sleep 77") == ""
    assert "sleep 77" in vmm.ok("top", "busy")
    assert vmm.ok("exec", "busy", "cat", "/told") == "done\n"


def test_wait_for_healthy_follows_the_check(vmm: CommandLine) -> None:
    health = ("--health-cmd", "test -e /well", "--health-interval", "0.2")
    vmm.ok(*RUN, "-d", "--name", "ill", *health, "tiny", "sleep", "1000")
    late = vmm.run("wait", "--for", "healthy", "--timeout", "1", "ill")
    assert late.returncode == 1
    assert "not healthy" in late.stderr
    vmm.ok("exec", "ill", "touch", "/well")
    vmm.ok("wait", "--for", "healthy", "--timeout", "10", "ill")
    assert vmm.run("wait", "--for", "moon", "ill").returncode == 2
