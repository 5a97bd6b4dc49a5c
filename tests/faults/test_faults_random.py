"""kill -9 of the command, the supervisor and pid 1 at random moments: what comes after is always right."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import leaks
import pytest
from capabilities import need
from commandline import CommandLine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROUNDS = int(os.environ.get("VMM_FAULT_ROUNDS", "200"))
LONGEST_S = 0.25
NEW = ("--name", "k", "tiny", "sleep", "100")
# What is prepared, and the command that is killed in the middle.
WORDS = (
    ((), ("create", *NEW)),
    ((), ("run", "-d", *NEW)),
    ((), ("run", *NEW)),
    (("create", *NEW), ("start", "k")),
    (("run", "-d", *NEW), ("exec", "k", "sleep", "5")),
    (("run", "-d", *NEW), ("restart", "--time", "0", "k")),
    (("run", "-d", *NEW), ("stop", "--time", "0", "k")),
    (("run", "-d", *NEW), ("rm", "-f", "k")),
)


@pytest.fixture
def vmm(tmp_path: Path) -> Iterator[CommandLine]:
    need("root", "busybox", "guest-helper", "cgroup", "overlay", "nft")
    home = tmp_path / "home"
    vmm = CommandLine(home)
    vmm.ok("run", "--rm", "--network", "none", "tiny", "true", timeout_s=120)
    yield vmm
    vmm.run("rm", "-f", "--all")
    leaks.forget(home)


def test_kill_9_of_commands_supervisors_and_first_processes(vmm: CommandLine) -> None:
    chance = random.Random(int(os.environ.get("VMM_FAULT_SEED", "4711")))
    with leaks.none(vmm.home):
        for number in range(ROUNDS):
            prepared, words = chance.choice(WORDS)
            network = "bridge" if chance.random() < 0.3 else "none"
            case = f"round {number}: {' '.join(words)} --network {network}"
            if prepared:
                vmm.ok(*with_network(prepared, network))
            killed_in_the_middle(vmm, with_network(words, network), chance.uniform(0, LONGEST_S))
            if chance.random() < 0.3:
                kill_all(supervisors(vmm.home))
            if chance.random() < 0.3:
                kill_all(first_processes(vmm))
            check(vmm, case)
        vmm.ok("doctor", "--repair", timeout_s=120)
        vmm.run("network", "rm", "bridge")
        kill_all(supervisors(vmm.home), signal.SIGTERM)


def with_network(words: tuple[str, ...], network: str) -> list[str]:
    new = words[0] in ("run", "create")
    return [words[0], "--network", network, *words[1:]] if new else [*words]


def killed_in_the_middle(vmm: CommandLine, words: list[str], after_s: float) -> None:
    null = subprocess.DEVNULL
    process = subprocess.Popen(vmm.argv(*words), env=vmm.env, stdin=null, stdout=null, stderr=null)
    time.sleep(after_s)
    process.kill()
    process.wait()


def check(vmm: CommandLine, case: str) -> None:
    """The state is one of the known, and each of the next commands works."""
    told = vmm.ls()
    assert set(told) <= {"k"}, case
    if told:
        assert told["k"]["state"] in ("created", "running", "exited"), case
        assert told["k"]["status"] != 0, f"{case}: nobody saw an end with 0"
        if told["k"]["state"] == "running":
            assert vmm.run("exec", "k", "true").returncode == 0 or not is_running(vmm), case
        removed = vmm.run("rm", "-f", "k")
        assert removed.returncode == 0, (case, removed.stderr)
    again = vmm.run("run", "--rm", "--network", "none", "--name", "k", "tiny", "sh", "-c", "exit 9")
    assert again.returncode == 9, (case, again.stderr)
    assert vmm.ls() == {}, case


def is_running(vmm: CommandLine) -> bool:
    return vmm.ls().get("k", {}).get("state") == "running"


def supervisors(home: Path) -> list[int]:
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
            if b"containers.supervisor" in words and str(home).encode() in words:
                found.append(int(name))
    return found


def first_processes(vmm: CommandLine) -> list[int]:
    told = vmm.run("inspect", "k").stdout
    instances = json.loads(told)["instances"] if told else []
    return [one["pid"] for one in instances if one.get("pid")]


def kill_all(pids: list[int], number: int = signal.SIGKILL) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
