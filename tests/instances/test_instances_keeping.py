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
    assert vmm.ls()["ill"]["health"] == "healthy"
    assert "running (healthy)" in vmm.ok("ls")
    assert vmm.run("wait", "--for", "moon", "ill").returncode == 2


def test_volumes_of_the_image_are_filled_and_go_with_the_container(vmm: CommandLine, tmp_path: Path) -> None:
    made = "mkdir -p /data/sub && echo content > /data/sub/f && chown 7:8 /data/sub/f"
    (tmp_path / "Dockerfile").write_text(f"FROM tiny\nRUN {made}\nVOLUME /data\n")
    vmm.ok("image", "build", "-t", "voluminous", str(tmp_path))
    look = ("sh", "-c", "stat -c '%u:%g' /data/sub/f; cat /data/sub/f; touch /data/made")
    assert vmm.ok(*RUN, "--rm", "voluminous", *look) == "7:8\ncontent\n"
    assert vmm.ok("volume", "ls", "-q") == "", "an anonymous volume goes with --rm"
    vmm.ok(*RUN, "--name", "kept", "-v", "named:/data", "-v", "/extra", "voluminous", *look)
    (anonymous,) = set(vmm.ok("volume", "ls", "-q").split()) - {"named"}
    assert vmm.ok("start", "-a", "kept").endswith("content\n")
    vmm.ok("rm", "-v", "kept")
    assert vmm.ok("volume", "ls", "-q") == "named\n", f"rm -v takes {anonymous} and leaves a named one"
    vmm.ok("volume", "rm", "named")
    refused = vmm.run("run", "--vm", "--rm", "-v", "/x", "tiny", "true")
    assert refused.returncode == 125
    assert "not for a machine" in refused.stderr


def test_a_new_name_keeps_how_it_ended(vmm: CommandLine) -> None:
    assert vmm.run(*RUN, "--name", "old", "tiny", "sh", "-c", "exit 7").returncode == 7
    vmm.ok("rename", "old", "new")
    assert vmm.ls()["new"]["state"] == "exited"
    assert vmm.ls()["new"]["status"] == 7


def test_limits_of_the_disks_reach_the_cgroup(vmm: CommandLine) -> None:
    disk = next(
        (one for one in ("/dev/vda", "/dev/sda", "/dev/nvme0n1") if Path(one).is_block_device()), None
    )
    if disk is None:
        pytest.skip("no disk of that name here")
    vmm.ok(*RUN, "-d", "--name", "slow", "--device-write-bps", f"{disk}:1M", "tiny", "sleep", "60")
    from containers.container import Container
    from containers.spec import ContainerSpec
    from host import paths

    folder, run = vmm.home / "instances/slow", paths.run_dir(vmm.home) / "slow"
    group = Container(folder, run, ContainerSpec("slow", (), ())).cgroup()
    files = ("blkio.throttle.write_bps_device", "io.max")
    found = [path for one in group.directories() for path in Path(one).iterdir() if path.name in files]
    assert any("1048576" in path.read_text() for path in found)
    refused = vmm.run(*RUN, "--rm", "--device-write-bps", "/dev/null:1M", "tiny", "true")
    assert refused.returncode == 125
    assert "not a block device" in refused.stderr


def test_cp_speaks_tar_as_docker_does(vmm: CommandLine, tmp_path: Path) -> None:
    import subprocess

    vmm.ok(*RUN, "-d", "--name", "tarry", "tiny", "sleep", "60")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/file").write_text("packed")
    archive = subprocess.run(["tar", "c", "-C", str(tmp_path), "sub"], capture_output=True, check=True).stdout
    given = subprocess.run(
        vmm.argv("cp", "-", "tarry:/tmp"), input=archive, env=vmm.env, capture_output=True, check=False
    )
    assert given.returncode == 0, given.stderr
    assert vmm.ok("exec", "tarry", "cat", "/tmp/sub/file") == "packed"
    got = subprocess.run(vmm.argv("cp", "tarry:/tmp/sub", "-"), env=vmm.env, capture_output=True, check=True)
    listed = subprocess.run(["tar", "t"], input=got.stdout, capture_output=True, check=True).stdout
    assert b"sub/file" in listed
    assert vmm.run("cp", "-", "tarry:/tmp", input="junk").returncode == 1


def test_volumes_from_another_container(vmm: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    vmm.ok(
        "create", "--ct", "--name", "donor", "-v", "given:/data", "-v", f"{tmp_path}:/host:ro", "tiny", "true"
    )
    script = "cat /host/file; echo x > /data/made; touch /host/no"
    done = vmm.run(*RUN, "--rm", "--volumes-from", "donor", "tiny", "sh", "-c", script)
    assert done.stdout == "mine"
    assert "Read-only" in done.stderr
    assert (vmm.home / "volumes/given/data/made").exists()
    assert vmm.run(*RUN, "--rm", "--volumes-from", "donor:ro", "tiny", "touch", "/data/no").returncode != 0
    vmm.ok("rm", "donor")
    vmm.ok("volume", "rm", "given")


def test_logs_since(vmm: CommandLine) -> None:
    vmm.ok(*RUN, "-d", "--name", "teller", "tiny", "sh", "-c", "echo said; sleep 60")
    vmm.ok("wait", "--for", "running", "teller")
    for _ in range(100):
        if vmm.ok("logs", "teller"):
            break
    assert vmm.ok("logs", "--since", "1h", "teller") == "said\n"
    assert vmm.ok("logs", "--since", "2999-01-01T00:00:00", "teller") == ""
    assert vmm.run("logs", "--since", "soon", "teller").returncode == 2


def test_diff_leaves_out_the_places_of_our_own_mounts(vmm: CommandLine, tmp_path: Path) -> None:
    words = ("--add-host", "a:1.2.3.4", "-v", f"{tmp_path}:/mnt/deep")
    vmm.ok(*RUN, "--name", "changer", *words, "tiny", "sh", "-c", "touch /made; rm /bin/vi")
    assert {"A /made", "D /bin/vi"} <= set(vmm.ok("diff", "changer").splitlines())
    assert not [line for line in vmm.ok("diff", "changer").splitlines() if "/etc" in line or "/mnt" in line]
