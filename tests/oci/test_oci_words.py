"""The pure parts of the OCI front door: command lines, bundles, mount options, cgroup values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from capabilities import need

from containers.oci import (
    bundle,
    features,
    filters,
    groups,
    limits,
    main,
    mounting,
    template,
)
from containers.oci.words import parse
from host import signals
from host.errors import BadData, Failure, Unsupported, Usage
from host.linux import syscalls as sc


def test_command_lines_as_containerd_and_podman_send_them() -> None:
    line = "--root /r --log /l.json --log-format json --systemd-cgroup=false create --bundle /b --pid-file=/p"
    words = parse(f"{line} --console-socket /s --no-new-keyring abc".split())
    assert words.command == "create"
    assert words.rest == ["abc"]
    assert words.flags["--pid-file"] == ["/p"]
    assert words.globals["--log-format"] == ["json"]
    line = "exec --process /p --detach -e A=b -e C=d abc ls -la --root x"
    words = parse(line.split())
    assert words.rest == ["abc", "ls", "-la", "--root", "x"]
    assert words.flags["--env"] == ["A=b", "C=d"]
    assert parse(["delete", "-f", "abc"]).flags == {"--force": [""]}
    assert parse(["kill", "-all", "abc", "9"]).flags == {"--all": [""]}


@pytest.mark.parametrize("line", ["frobnicate", "create --nothing x", "--root", "create --bundle"])
def test_unknown_words_are_refused(line: str) -> None:
    with pytest.raises(Usage):
        parse(line.split())


@pytest.mark.parametrize(
    ("word", "number"), [("TERM", 15), ("SIGKILL", 9), ("9", 9), ("sigusr1", 10), ("RTMIN+3", 37)]
)
def test_signals(word: str, number: int) -> None:
    assert signals.number(word) == number


@pytest.mark.parametrize("word", ["", "0", "-9", "NOPE", "SIG", "65", "TERM+x", "_9"])
def test_no_signal(word: str) -> None:
    with pytest.raises(Usage):
        signals.number(word)


def _bundle(tmp_path: Path, **changes: Any) -> bundle.Bundle:
    (tmp_path / "rootfs").mkdir(exist_ok=True)
    config = template.document() | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    return bundle.load(str(tmp_path))


@pytest.mark.parametrize("version", ["1.0.0", "1.0.2-dev", "1.1.0+dev", "1.2.1", "1.3.0"])
def test_versions_that_are_read(tmp_path: Path, version: str) -> None:
    assert _bundle(tmp_path, ociVersion=version).config["ociVersion"] == version


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"ociVersion": "2.0.0"}, "1.0.0 to"),
        ({"ociVersion": "x"}, "not a version"),
        ({"ociVersion": ""}, "not a version"),
        ({"root": {}}, "root.path is missing"),
        ({"root": {"path": "nowhere"}}, "not a directory"),
        ({"linux": None}, "no Linux container"),
        ({"linux": {"namespaces": [{"type": "pid"}, {"type": "pid"}]}}, "listed twice"),
        ({"linux": {"namespaces": [{"type": "mount"}]}}, "needs a uts namespace"),
        ({"process": {"args": [], "cwd": "/"}}, "it is empty"),
        ({"process": {"args": ["x"], "cwd": "etc"}}, "not an absolute path"),
        ({"process": {"args": ["x"], "cwd": "/", "rlimits": [{"type": "A"}, {"type": "A"}]}}, "listed twice"),
    ],
)
def test_bundles_that_are_refused(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    with pytest.raises(Failure, match=why):
        _bundle(tmp_path, **changes)


@pytest.mark.parametrize("word", ["", ".", "..", "a/b", "a b", "a\n", "ä"])
def test_ids_that_are_refused(word: str) -> None:
    with pytest.raises(Usage):
        bundle.check_id(word)


def test_mount_options_are_taken_apart() -> None:
    one = mounting.parsed(["rbind", "ro", "nosuid", "rprivate", "rnoexec", "size=5", "rw"])
    assert one.flags == 2  # the later rw takes ro back
    assert one.bind == sc.MS_BIND | sc.MS_REC
    assert one.data == ("size=5",)
    assert one.propagation == (sc.MS_PRIVATE | sc.MS_REC,)
    assert one.recursive == (8, 0)
    assert mounting.attributes(1 | 1024, 0) == (1 | 0x10, 0x70)
    with pytest.raises(Unsupported):
        mounting.parsed(["idmap"])


def test_cgroup_values_of_both_versions() -> None:
    resources = {
        "memory": {"limit": 1 << 26, "swap": 1 << 27, "reservation": 1 << 25},
        "cpu": {"shares": 1024, "quota": 50000, "period": 100000, "cpus": "0-1"},
        "pids": {"limit": -1},
        "unified": {"memory.high": "max"},
    }
    old = {one.file: one.value for one in limits.values(1, resources)}
    assert old["memory.limit_in_bytes"] == str(1 << 26)
    assert old["memory.memsw.limit_in_bytes"] == str(1 << 27)
    assert old["cpu.cfs_quota_us"] == "50000"
    assert old["pids.max"] == "max"
    new = {one.file: one.value for one in limits.values(2, resources)}
    assert new["memory.max"] == str(1 << 26)
    assert new["memory.swap.max"] == str(1 << 26)
    assert new["cpu.max"] == "50000 100000"
    assert new["cpu.weight"] == "39"
    assert new["memory.high"] == "max"
    with pytest.raises(BadData):
        limits.values(2, {"unified": {"../x": "1"}})
    with pytest.raises(BadData):
        groups.path_of({"cgroupsPath": "/a/../../b"}, "x")


def test_device_rules_end_with_what_everyone_needs() -> None:
    values = limits.device_values(
        [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 10}]
    )
    assert [one.value for one in values[:2]] == ["a", "c 10:* rwm"]
    assert "c 1:3 rwm" in [one.value for one in values]
    assert limits.device_values([]) == []


def test_features_are_what_the_front_door_knows() -> None:
    told = features.document()
    assert set(told["linux"]["namespaces"]) >= {
        "pid",
        "network",
        "ipc",
        "uts",
        "mount",
        "user",
        "cgroup",
        "time",
    }
    for option in told["mountOptions"]:
        mounting.parsed([option])
    assert "CAP_SYS_ADMIN" in told["linux"]["capabilities"]


def test_filters_are_compiled_once(tmp_path: Path) -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["getcwd", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 42}],
    }
    first = filters.program(profile, str(tmp_path))
    assert first
    assert len(first) % 8 == 0
    (stored,) = tmp_path.iterdir()
    stored.write_bytes(b"12345678")
    assert filters.program(profile, str(tmp_path)) == b"12345678"
    assert filters.program({}, str(tmp_path)) == b""
    with pytest.raises(BadData):
        filters.compile_profile({"defaultAction": "SCMP_ACT_NOTIFY"})


def test_error_goes_to_the_log_as_dockerd_reads_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log.json"
    status = main.main(
        ["--root", str(tmp_path), "--log", str(log), "--log-format", "json", "state", "nobody"]
    )
    assert status == 1
    line = json.loads(log.read_text())
    assert line["level"] == "error"
    assert line["msg"] == "container does not exist: nobody"
    assert set(line) == {"level", "msg", "time"}
    assert "does not exist" in capsys.readouterr().err
    need("busybox")
