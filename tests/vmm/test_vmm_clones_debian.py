"""Clones of a booted Debian: each has a name, a machine-id, a host key and random bytes of its own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import machines
import pytest
from capabilities import need

from vmm import pool, refill, templates

pytestmark = [pytest.mark.machine, pytest.mark.slow, pytest.mark.timeout(900)]
TEMPLATE = f"deb-{os.getpid()}"
LOOK = (
    "hostname; cat /etc/machine-id; od -An -N16 -tx1 /dev/urandom; cut -d' ' -f2 /etc/ssh/ssh_host_*_key.pub"
)


@pytest.fixture(scope="module")
def template() -> Iterator[str]:
    """A frozen Debian in the home of all machine tests, where its image is made once."""
    need("qemu", "kernel", "guest-helper", "mmdebstrap", "root", "sshd")
    before = os.environ.get("VMM_HOME")
    os.environ["VMM_HOME"] = str(machines.shared_home())
    try:
        machines.image("debian")
        vmm("template", "create", "--accel", "tcg", TEMPLATE, "debian", "/sbin/init")
        yield TEMPLATE
        vmm("template", "rm", TEMPLATE)
    finally:
        os.environ.pop("VMM_HOME")
        if before is not None:
            os.environ["VMM_HOME"] = before


def vmm(*words: str, check: bool = True) -> str:
    line = [sys.executable, "-m", "cli.main", *words]
    done = subprocess.run(line, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0 or not check, done.stderr
    return done.stdout


def served_key(name: str) -> str:
    """The host key that the clone's sshd serves, asked once: `run` has waited for it."""
    port = vmm("port", name, "22").split(":")[-1].strip()
    words = ["ssh-keyscan", "-T", "30", "-t", "ed25519", "-p", port, "127.0.0.1"]
    told = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    (key,) = [line.split()[-1] for line in told.stdout.splitlines() if not line.startswith("#")] or [""]
    assert key, told.stderr
    return key


def looked_at(name: str, *words: str) -> list[str]:
    """What a clone says of itself, and last the key that it serves; it is gone afterwards."""
    try:
        vmm("run", "--vm", "-d", "--name", name, "-p", "22", *words)
        key = served_key(name)
        return [*vmm("exec", name, "sh", "-c", LOOK).rstrip("\n").split("\n"), key]
    finally:
        vmm("rm", "-f", name, check=False)


def test_twenty_clones_are_not_alike(template: str) -> None:
    """No two have a name, a machine-id, a host key or random bytes in common; what is served is their own."""
    told = [looked_at(f"c{number}-{os.getpid()}", "--from", template) for number in range(20)]
    for number, lines in enumerate(told):
        assert lines[0] == f"c{number}-{os.getpid()}"
        assert len(lines) == 5  # one key only
        assert lines[3] == lines[4]  # and it is served
    for position, what in enumerate(("host name", "machine-id", "random bytes", "host key")):
        assert len({lines[position] for lines in told}) == 20, what


def test_a_list_shows_a_clone_as_ready_at_once(template: str) -> None:
    """It is not handed over before its sshd listens: nobody has to knock to find that out."""
    for words in ((), ("--keep-identity",)):
        vmm("run", "--vm", "-d", "--name", "listed", "--from", template, *words)
        try:
            shown = json.loads(vmm("ls", "--json"))["instances"]
        finally:
            vmm("rm", "-f", "listed")
        assert [one["state"] for one in shown if one["name"] == "listed"] == ["ssh-ready"]


def test_a_clone_has_no_rest_of_its_templates_boot_to_do(template: str) -> None:
    ended = set()
    for name in ("first", "second"):
        vmm("run", "--vm", "-d", "--name", name, "--from", template)
        try:
            vmm("exec", name, "systemctl", "is-system-running", "--wait", check=False)
            ended.add(vmm("exec", name, "systemctl", "show", "-p", "FinishTimestampMonotonic"))
        finally:
            vmm("rm", "-f", name)
    assert len(ended) == 1, "each did it for itself"


def test_nobody_knocked_at_a_template_and_its_clones_have_no_visitor(template: str) -> None:
    """QEMU's user network says again, seconds later, what nobody heard: each clone's sshd would answer."""
    vmm("run", "--vm", "-d", "--name", "visited", "--from", template, "--keep-identity")
    try:
        time.sleep(8)
        told = vmm("exec", "visited", "journalctl", "-b", "--no-pager", "-t", "sshd")
    finally:
        vmm("rm", "-f", "visited")
    assert "Server listening" in told
    assert "kex_exchange_identification" not in told


def test_a_clone_that_keeps_its_identity_is_entered_with_its_templates_key(template: str) -> None:
    vmm("run", "--vm", "-d", "--name", "kept", "--from", template, "--keep-identity", "-p", "22")
    try:
        folder = machines.shared_home() / "instances" / "kept"
        key = templates.login_key(template).read_bytes()
        assert (folder / "ssh_key").read_bytes() == key
        port = vmm("port", "kept", "22").split(":")[-1].strip()
        words = ["ssh", "-i", str(folder / "ssh_key"), "-p", port, "-o", "StrictHostKeyChecking=no"]
        words += ["-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes", "root@127.0.0.1", "hostname"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        assert done.stdout.strip(), done.stderr
    finally:
        vmm("rm", "-f", "kept")


def test_paused_clones_are_not_alike_either(template: str) -> None:
    """What is renewed is renewed at the claim: they waited with the template's name, and nobody met them."""
    home = machines.shared_home()
    frozen, told = templates.load(home, template), list[list[str]]()
    refill.keep(home, template, 1)
    for number in range(3):
        (waiting,) = pool.ready(frozen)
        told.append(looked_at(f"p{number}-{os.getpid()}", "--from", template))
        assert waiting.id not in {one.id for one in pool.members(frozen)}
        refill.fill(home, template)
        until = time.monotonic() + 60
        while not pool.ready(frozen):  # the claim's own process may be at it
            assert time.monotonic() < until
            time.sleep(0.1)
    for number, lines in enumerate(told):
        assert lines[0] == f"p{number}-{os.getpid()}"
        assert lines[3] == lines[4]
    for position, what in enumerate(("host name", "machine-id", "random bytes", "host key")):
        assert len({lines[position] for lines in told}) == 3, what


def test_a_clone_of_a_whole_system_runs_its_init_and_no_other_command(template: str) -> None:
    line = [sys.executable, "-m", "cli.main", "run", "--rm", "--from", template, "hostname"]
    refused = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert (refused.returncode, "is a whole system" in refused.stderr) == (125, True)
    name = f"i-{os.getpid()}"
    vmm("create", "--name", name, "--from", template)
    try:
        assert vmm("ls", "-a", "-f", f"name={name}", "--format", "{command}") == '["/sbin/init"]\n'
    finally:
        vmm("rm", "-f", name)


def test_a_kept_identity_is_the_templates_but_its_random_bytes(template: str) -> None:
    name = f"k-{os.getpid()}"
    first, second = (looked_at(name, "--from", template, "--keep-identity") for _ in "12")
    assert first[0] == second[0]
    assert (first[1], first[3], first[4]) == (second[1], second[3], second[4])
    assert first[2] != second[2]


def test_a_cloneable_debian_becomes_a_template_while_it_runs(template: str) -> None:
    source, made = f"s-{os.getpid()}", f"of-running-{os.getpid()}"
    try:
        vmm("run", "--vm", "-d", "--cloneable", "--accel", "tcg", "--name", source, "debian", "/sbin/init")
        vmm("wait", "--for", "ssh-ready", source)
        vmm("exec", source, "sh", "-c", "echo 17 >/run/mark; echo 18 >/mark")
        vmm("template", "create", made, source)
        (told,) = json.loads(vmm("template", "inspect", made))["templates"]
        assert told["memory_held_bytes"] < 0.75 * told["memory_bytes"]  # what the guest never used is a hole
        lines = looked_at(f"d-{os.getpid()}", "--from", made)
        assert lines[0] == f"d-{os.getpid()}"
        assert lines[3] == lines[4]
        vmm("run", "--vm", "-d", "--name", f"e-{os.getpid()}", "--from", made)
        assert vmm("exec", f"e-{os.getpid()}", "cat", "/run/mark", "/mark") == "17\n18\n"
        assert vmm("exec", source, "hostname") == f"{source}\n"  # it went on
    finally:
        vmm("rm", "-f", source, f"e-{os.getpid()}", check=False)
        vmm("template", "rm", made, check=False)
