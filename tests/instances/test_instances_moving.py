"""A whole machine as one file: out of one home, into another; and archives that lie."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from capabilities import need
from commandline import CommandLine

from host import commands

WRITE = "test -e /kept && cat /kept || echo first > /kept"


@pytest.mark.machine
def test_a_machine_goes_to_another_home_with_what_it_wrote(tmp_path: Path, home: Path) -> None:
    need("root", "qemu", "kernel", "guest-helper", "busybox")
    for folder in (tmp_path, *list(tmp_path.parents)[:2]):
        folder.chmod(0o711)
    one, other = CommandLine(home), CommandLine(tmp_path / "other")
    shared = tmp_path / "shared"
    shared.mkdir()
    words = ("--network", "none", "--boot", "microvm", "-v", f"{shared}:/mnt")
    one.ok("run", "--vm", "--name", "m", *words, "tiny", "sh", "-c", WRITE)
    archive = tmp_path / "m.tar"
    one.ok("export", "m", "-o", str(archive))
    assert archive.stat().st_mode & 0o777 == 0o600  # of a machine in system mode it holds the key
    with tarfile.open(archive) as tar:
        assert tar.getnames()[:2] == ["machine.json", "disk0.qcow2"]
    one.ok("rm", "m")
    done = other.run("import", "--name", "moved", str(archive))
    assert (done.returncode, done.stdout) == (0, "moved\n")
    assert f"left out the shared folder {shared}" in done.stderr
    assert not list((other.home / "images").glob("*/*"))  # it needs nothing of a store
    assert other.ls()["moved"]["state"] == "created"
    assert other.ok("start", "-a", "moved") == "first\n"
    taken = other.run("import", "--name", "moved", str(archive))
    assert taken.returncode == 1
    assert "an instance has it" in taken.stderr
    other.ok("rm", "moved")


def archive_of(path: Path, change: Callable[[dict[str, Any]], None], members: dict[str, bytes]) -> Path:
    spec = {"name": "m", "boot": "bios", "init": "/sbin/init", "disks": [{"path": "disk0.qcow2"}]}
    record = {"format": "vmm-machine", "version": 1, "name": "m", "spec": spec}
    change(record)
    with tarfile.open(path, "w") as tar:
        for name, data in {"machine.json": json.dumps(record).encode(), **members}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def disk(tmp_path: Path, *more: str) -> bytes:
    path = tmp_path / "d.qcow2"
    commands.run(("qemu-img", "create", "-q", "-f", "qcow2", *more, str(path), "1M"), "cannot make the disk")
    data = path.read_bytes()
    path.unlink()
    return data


def test_archives_that_lie_are_refused_and_leave_nothing(tmp_path: Path, home: Path) -> None:
    need("qemu")
    vmm = CommandLine(home)
    secret = tmp_path / "secret"
    secret.write_bytes(b"x" * 512)
    good = disk(tmp_path)
    backed = disk(tmp_path, "-b", str(secret), "-F", "raw")

    def spec(**words: object) -> Callable[[dict[str, Any]], None]:
        return lambda record: record["spec"].update(words)

    def nothing(record: dict[str, Any]) -> None:
        pass

    lies: list[tuple[str, Callable[[dict[str, Any]], None], dict[str, bytes]]] = [
        ("which is not in it", spec(disks=[{"path": str(secret), "format": "raw"}]), {"disk0.qcow2": good}),
        ("which is not in it", spec(kernel=str(secret)), {"disk0.qcow2": good}),
        ("backed by another file", nothing, {"disk0.qcow2": backed}),
        ("of no known format", nothing, {"disk0.qcow2": bytes(len(good))}),
        ("no file of a machine", nothing, {"disk0.qcow2": good, "../x": b""}),
        ("no file of a machine", nothing, {"disk0.qcow2": good, "instance.json": b"{}"}),
        ("describes no machine", spec(disks=[{"path": "disk0.qcow2", "colour": 1}]), {"disk0.qcow2": good}),
        ("its version is 2", lambda record: record.update(version=2), {}),
        ("no machine.json", lambda record: record.update(format="else"), {}),
    ]
    for why, change, members in lies:
        done = vmm.run("import", str(archive_of(tmp_path / "a.tar", change, members)))
        assert done.returncode == 1, why
        assert why in done.stderr, (why, done.stderr)
        assert "Traceback" not in done.stderr
        assert vmm.ls() == {}
        assert not list((home / "instances").glob("*"))
    whole = archive_of(
        tmp_path / "a.tar", spec(shares=[{"source": "/", "target": "/mnt"}]), {"disk0.qcow2": good}
    )
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole.read_bytes()[: len(good)])
    assert "no whole archive" in vmm.run("import", str(cut)).stderr
    assert vmm.ls() == {}
    vmm.ok("import", str(whole))
    assert vmm.inspect("m")["spec"]["shares"] == []
