"""Ports of a microvm: one at birth, others plugged in when they are wanted, and never lost on a way."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from capabilities import need

from host import paths
from host.edges import Edges
from host.errors import Failure
from host.stdio import Stdio
from instances import kinds, registry, runs
from instances.requests import RunRequest
from vmm import ports, templates
from vmm.launch import CHANNELS
from vmm.machine import Machine

pytestmark = pytest.mark.machine
TINY = RunRequest(image="tiny", kind="vm", rm=True, network="none", memory_bytes=128 << 20, accel="tcg")
NAMES = "cat /sys/class/virtio-ports/*/name"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One home for the module."""
    need("qemu", "kernel", "guest-helper", "busybox")
    where = tmp_path_factory.mktemp("ports") / "home"
    for above in where.parents:  # QEMU drops to its own user, who must reach its files
        if above.stat().st_uid == os.geteuid() and above != Path("/"):
            above.chmod(above.stat().st_mode | 0o011)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VMM_HOME", str(where))
        yield where
    shutil.rmtree(templates.memory_dir(where), ignore_errors=True)
    shutil.rmtree(paths.run_dir(where), ignore_errors=True)


@pytest.fixture
def running(home: Path) -> Iterator[str]:
    """The name of a detached machine that sleeps."""
    vmm("rm", "-f", "it")
    runs.run_detached(TINY._replace(rm=False, name="it", command=("sleep", "1000")), Edges())
    yield "it"
    vmm("rm", "-f", "it", "copy")


def vmm(*words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "cli.main", *words]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)


def said(*command: str, **more: Any) -> str:
    """The output of a command in a new machine."""
    read_end, write_end = os.pipe()
    null = os.open(os.devnull, os.O_RDWR)
    try:
        status = runs.run(TINY._replace(command=command, **more), Stdio(null, write_end, write_end), Edges())
    finally:
        os.close(write_end)
        os.close(null)
    with os.fdopen(read_end, "rb") as file:
        text = file.read().decode()
    assert status == 0, text
    return text


def machine_of(name: str) -> Machine:
    backend = kinds.backend(registry.load(name))
    assert isinstance(backend, Machine)
    return backend


def ports_of(name: str) -> list[str]:
    return vmm("exec", name, "sh", "-c", NAMES).stdout.split()


def test_a_clone_has_what_a_detached_one_writes_to_in_the_memory_that_all_share(running: str) -> None:
    """Plugged in after the start, two ports would be 8 MiB of each clone's own."""
    journal = (machine_of(running).run_dir / "qmp").read_text()
    assert "migrate-incoming" in journal  # it is a clone
    assert "device_add" not in journal


def test_a_microvm_is_born_with_one_port_whose_queue_alone_costs_its_guest_memory(home: Path) -> None:
    """Each port more would be 4 MiB of slab: six were 24 of the 46 MB of it that such a guest had."""
    told = said("sh", "-c", f"{NAMES}; grep Slab: /proc/meminfo", boot="microvm").split()
    assert told[:2] == ["vmm.guest", "Slab:"]
    assert int(told[2]) < 28 << 10


def test_a_guest_of_80_mib_boots_and_is_cloned(home: Path) -> None:
    """With six ports 96 were too few."""
    for boot in ("microvm", None, None):
        assert said("echo", "hi", memory_bytes=80 << 20, boot=boot) == "hi\n"


def test_four_commands_at_once_and_the_fifth_is_told(running: str) -> None:
    assert ports_of(running) == ["vmm.guest", "vmm.log", "vmm.status"]  # a first command needs no other
    with ThreadPoolExecutor(4) as threads:
        words = ("exec", running, "sh", "-c", "sleep 2; echo done")
        assert [one.stdout for one in threads.map(lambda _: vmm(*words), range(4))] == ["done\n"] * 4
    assert sorted(ports_of(running)) == sorted(f"vmm.{name}" for name in (*CHANNELS, *ports.FILES))
    with ExitStack() as held:
        for _ in CHANNELS:
            held.enter_context(machine_of(running).channel())
        with pytest.raises(Failure, match="all its channels are in use"):
            held.enter_context(machine_of(running).channel())
    assert vmm("exec", running, "echo", "again").stdout == "again\n"


def test_a_command_beside_the_one_that_the_machine_lives_for(home: Path) -> None:
    line = [sys.executable, "-m", "cli.main", "run", "--vm", "--rm", "--name", "front", "--network", "none"]
    line += ["--memory", "128M", "--accel", "tcg", "tiny", "sh", "-c", "echo up; sleep 100"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as front:
        assert front.stdout is not None
        try:
            assert front.stdout.readline() == "up\n"
            assert "vmm.guest.1" in ports_of("front")
        finally:
            vmm("rm", "-f", "front")


def test_a_half_plugged_port_is_plugged_anew(running: str) -> None:
    """A command was killed between QEMU's port and the name of its socket."""
    it = machine_of(running)
    with it.channel(), it.channel():
        pass
    (it.run_dir / "guest.1").unlink()
    with it.channel(), it.channel() as second:
        assert second.greeting is not None


def test_plugged_ports_go_along_with_a_migration(running: str) -> None:
    with machine_of(running).channel(), machine_of(running).channel():
        pass
    moved = vmm("migrate", running)
    assert moved.returncode == 0, moved.stderr
    with machine_of(running).channel(), machine_of(running).channel() as second:
        assert second.greeting is not None
    assert vmm("stop", running).returncode == 0


def test_plugged_ports_are_a_part_of_a_snapshot(running: str) -> None:
    with machine_of(running).channel(), machine_of(running).channel():
        pass
    kept = vmm("snapshot", "create", running, "one", "--memory")
    assert kept.returncode == 0, kept.stderr
    vmm("kill", running)
    back = vmm("snapshot", "restore", running, "one")
    assert back.returncode == 0, back.stderr
    assert "vmm.guest.1" in ports_of(running)


def test_plugged_ports_are_a_part_of_what_is_cloned_alive(running: str) -> None:
    with machine_of(running).channel(), machine_of(running).channel():
        pass
    try:
        made = vmm("template", "create", "alive", running)
        assert made.returncode == 0, made.stderr
        ran = vmm("run", "--vm", "--rm", "--from", "alive", "sh", "-c", NAMES)
        assert "vmm.guest.1" in ran.stdout.split(), ran.stderr
        copied = vmm("clone", running, "copy", "--live")
        assert copied.returncode == 0, copied.stderr
        assert "vmm.guest.1" in ports_of("copy")
    finally:
        vmm("template", "rm", "alive")
