"""Labs: every mistake told with its place, starts in the order of needs, changes only where words changed."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import leaks
import pytest
from capabilities import need
from commandline import CommandLine

from host.errors import Failure
from instances import labs

LAB = """
name: shop
networks: [back]
volumes: [data]
instances:
  ask:
    image: tiny
    network: back
    volume: data:/data
    command: [sh, -c, "wget -qO /data/answer http://web/ && cat /data/answer; sleep 1000"]
    needs: [web]
  web:
    image: tiny
    command: [sh, -c, "mkdir /w; hostname > /w/index.html; httpd -f -h /w"]
    network: back
    needs: {db: running}
  db: {kind: vm, boot: microvm, image: tiny, command: sleep 1000, memory: 128M, network: none}
"""


def lab_of(tmp_path: Path, text: str) -> labs.Lab:
    path = tmp_path / "lab.yaml"
    path.write_text(text)
    return labs.read(path)


def test_members_come_after_what_they_need(tmp_path: Path) -> None:
    assert [member.name for member in lab_of(tmp_path, LAB).members] == ["db", "web", "ask"]


def test_networks_and_volumes_of_the_lab_carry_its_name(tmp_path: Path) -> None:
    ask = lab_of(tmp_path, LAB).members[2]
    assert "shop-back" in ask.words
    assert "shop-data:/data" in ask.words
    assert ask.words[:2] == ("--network-alias", "ask")


def test_a_clone_of_a_template_is_a_machine_without_an_image(tmp_path: Path) -> None:
    (member,) = lab_of(tmp_path, "name: x\ninstances: {a: {from: warm, command: sleep 9}}").members
    assert member.words == ("--vm", "--name", "x-a", "--hostname", "a", "--from", "warm", "sleep", "9")


def test_the_state_of_a_lab_that_is_not_up_names_its_images(tmp_path: Path) -> None:
    told = CommandLine(tmp_path / "home")
    (tmp_path / "lab.yaml").write_text(LAB)
    lines = told.ok("ps", "-f", str(tmp_path / "lab.yaml")).splitlines()[1:]
    assert [line.split()[1:] for line in lines] == [
        ["vm", "tiny", "not", "there"], *[["ct", "tiny", "not", "there"]] * 2
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "lab.yaml"),
        ("instances: {a: {image: tiny, from: t}}", "an image and `from`"),
        ("[]", "no `instances:`"),
        ("instances: {a: {command: x}}", "'a' has no image"),
        ("instances: {a: {image: x, needs: [b]}}", "needs 'b'"),
        ("instances: {a: {image: x, needs: [b]}, b: {image: x, needs: [a]}}", "a -> b -> a"),
        ("instance: {}\ninstances: {}", "unknown key 'instance'"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(Failure) as told:
        lab_of(tmp_path, text)
    assert words in told.value.told()


def test_a_plan_makes_what_is_missing(tmp_path: Path, home: Path) -> None:
    steps = labs.plan(lab_of(tmp_path, LAB))
    assert [(step.action, step.instance) for step in steps] == [
        ("make", "shop-db"),
        ("make", "shop-web"),
        ("make", "shop-ask"),
    ]


def test_a_lab_of_both_kinds_comes_up_changes_and_goes(tmp_path: Path) -> None:
    need("root", "busybox", "guest-helper", "cgroup", "overlay", "qemu", "kernel", "nft", "dnsmasq")
    home = tmp_path / "home"
    vmm = CommandLine(home)
    (tmp_path / "lab.yaml").write_text(LAB)
    file = ("-f", str(tmp_path / "lab.yaml"))
    try:
        with leaks.none(home):
            vmm.ok("up", *file, timeout_s=120)
            assert {one["state"] for one in vmm.ls().values()} == {"running"}
            _eventually_says(vmm, "shop-ask", "web\n")
            steps = json.loads(vmm.ok("plan", *file, "--json"))["steps"]
            assert [step["action"] for step in steps] == ["keep", "keep", "keep"]
            first = vmm.ls()
            (tmp_path / "lab.yaml").write_text(LAB.replace("128M", "160M"))
            vmm.ok("up", *file)
            second = vmm.ls()
            changed = {name for name in first if first[name]["id"] != second[name]["id"]}
            assert changed == {"shop-db"}
            vmm.ok("down", *file, "--volumes", "--time", "1")
            assert vmm.ls() == {}
            assert vmm.ok("volume", "ls", "-q") == ""
    finally:
        vmm.run("rm", "-f", "--all")
        leaks.forget(home)


def _eventually_says(vmm: CommandLine, name: str, words: str) -> None:
    deadline = time.monotonic() + 15
    while (said := vmm.ok("logs", name)) != words:
        assert time.monotonic() < deadline, said
        time.sleep(0.2)


def test_a_wrong_flag_in_a_lab_is_told_before_anything_starts(tmp_path: Path) -> None:
    vmm = CommandLine(tmp_path / "home")
    (tmp_path / "lab.yaml").write_text("instances: {a: {image: tiny}, b: {image: tiny, memroy: 5M}}")
    done = vmm.run("up", "-f", str(tmp_path / "lab.yaml"))
    assert done.returncode == 2
    assert "memroy" in done.stderr
    assert vmm.ls() == {}


def test_events_tell_a_life_and_what_ended_by_itself(tmp_path: Path) -> None:
    need("root", "busybox", "guest-helper", "cgroup", "overlay")
    home = tmp_path / "home"
    vmm = CommandLine(home)
    vmm.ok("run", "--ct", "--rm", "--network", "none", "tiny", "true")
    with subprocess.Popen(
        vmm.argv("events", "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=vmm.env,
    ) as reader:
        time.sleep(0.6)
        vmm.ok("run", "--ct", "-d", "--name", "short", "--network", "none", "tiny", "sleep", "1")
        time.sleep(1.8)
        vmm.ok("rm", "short")
        time.sleep(0.4)
        reader.terminate()
        lines = [json.loads(line) for line in (reader.stdout or []) if line.strip()]
    leaks.forget(home)
    assert [one["event"] for one in lines if one["name"] == "short"] == [
        "created",
        "started",
        "exited",
        "removed",
    ]
