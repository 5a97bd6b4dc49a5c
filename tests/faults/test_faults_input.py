"""Bad input and missing capabilities, by the real command line: one clear error, its status, nothing left."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import leaks
import pytest
from capabilities import need


@pytest.fixture(scope="module")
def made_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One home for the module: image, kernel and disk are made once."""
    where = tmp_path_factory.mktemp("input") / "home"
    yield where
    leaks.forget(where)


@pytest.fixture
def home(made_home: Path) -> Iterator[Path]:
    """The home, without the instances of the test before."""
    yield made_home
    if list(made_home.glob("instances/*")):
        vmm(made_home, "rm", "-f", "--all")


BOTH = pytest.mark.parametrize("kind", ["--ct", "--vm"])


def vmm(home: Path, *words: str, timeout_s: float = 60, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user would, in that home."""
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *words],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={"VMM_ACCEL": "tcg", **os.environ, "VMM_HOME": str(home), **env},
        check=False,
    )


def one_error(done: subprocess.CompletedProcess[str], status: int, *words: str) -> None:
    """The command told one error with these words and a hint, no traceback, and ended with that status."""
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    assert "fault of vmm itself" not in done.stderr
    assert sum(line.startswith("hint: ") for line in done.stderr.splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr


@BOTH
def test_an_unknown_image(kind: str, home: Path) -> None:
    with leaks.none(home):
        one_error(vmm(home, "run", kind, "--rm", "nosuch", "true"), 125, "no image 'nosuch'", "vmm image ls")


@BOTH
@pytest.mark.parametrize("size", ["12Q", "-5M", "0", "", "1e3"])
def test_a_bad_memory_size(kind: str, size: str, home: Path) -> None:
    with leaks.none(home):
        one_error(vmm(home, "run", kind, f"--memory={size}", "tiny", "true"), 125, "memory size")


def test_memory_that_nothing_can_boot_in(home: Path) -> None:
    need("kernel", "guest-helper", "qemu")
    with leaks.none(home):
        one_error(vmm(home, "run", "--vm", "--memory", "1M", "tiny", "true"), 125, "memory", "128M")


@BOTH
def test_a_name_in_use(kind: str, home: Path) -> None:
    need("busybox", "guest-helper", "kernel", "qemu")
    assert vmm(home, "create", "--ct", "--network", "none", "--name", "web", "tiny", "true").returncode == 0
    with leaks.none(home):
        one_error(vmm(home, "run", kind, "--name", "web", "tiny", "true"), 125, "'web'", "vmm rm web")


@BOTH
def test_a_name_that_is_none(kind: str, home: Path) -> None:
    one_error(vmm(home, "run", kind, "--name", "../etc", "tiny", "true"), 125, "'../etc'")


def test_a_flag_of_the_other_kind(home: Path) -> None:
    one_error(
        vmm(home, "run", "--ct", "--boot", "uefi", "tiny", "true"), 125, "--boot", "not for a container"
    )
    one_error(
        vmm(home, "run", "--vm", "--cap-add", "all", "tiny", "true"), 125, "--cap-add", "not for a machine"
    )


def test_kvm_asked_for_where_there_is_none(home: Path) -> None:
    need("qemu", "kernel", "guest-helper", "busybox")
    if os.access("/dev/kvm", os.W_OK) and vmm(home, "doctor", "--json").stdout.count(
        '"name": "kvm",\n      "works": true'
    ):
        pytest.skip("kvm works here: there is nothing to miss")
    with leaks.none(home):
        done = vmm(
            home, "run", "--vm", "--rm", "--accel", "kvm", "--network", "none", "tiny", "true", timeout_s=120
        )
        one_error(done, 125, "kvm")


def test_no_command_in_the_image_and_none_given(home: Path) -> None:
    need("busybox")
    done = vmm(home, "run", "--ct", "--entrypoint", "", "tiny")
    one_error(done, 125, "nothing to run")


@BOTH
def test_a_command_that_is_not_there_is_127_and_one_that_cannot_run_126(kind: str, home: Path) -> None:
    need(
        "root", "busybox", *(("qemu", "kernel", "guest-helper") if kind == "--vm" else ("cgroup", "overlay"))
    )
    run = ("run", kind, "--rm", "--network", "none", "tiny")
    with leaks.none(home):
        assert vmm(home, *run, "nosuchcommand").returncode == 127
        assert vmm(home, *run, "/etc/passwd").returncode == 126


@BOTH
def test_a_home_without_space(kind: str, home: Path, tmp_path: Path) -> None:
    """A tmpfs of 1 MiB as VMM_HOME: the image does not fit, and what was begun is taken away."""
    need("root", "busybox")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], check=True)
    try:
        with leaks.none(small):
            done = vmm(small, "run", kind, "--rm", "tiny", "true")
            one_error(done, 125, "No space left on device", "vmm prune")
            left = sum(file.stat().st_size for file in small.rglob("*") if file.is_file())
            assert left < 200_000, "half-made files were left on the full disk"
    finally:
        subprocess.run(["umount", small], check=True)


def test_an_instance_that_is_not_there(home: Path) -> None:
    for word in (
        "start",
        "stop",
        "rm",
        "inspect",
        "explain",
        "logs",
        "kill",
        "pause",
        "resume",
        "wait",
        "port",
    ):
        one_error(vmm(home, word, "ghost"), 1, "'ghost'")
    one_error(vmm(home, "exec", "ghost", "true"), 125, "'ghost'")


def test_a_state_that_does_not_fit(home: Path) -> None:
    need("busybox")
    assert vmm(home, "create", "--ct", "--network", "none", "--name", "web", "tiny", "true").returncode == 0
    for word in ("pause", "kill"):
        one_error(vmm(home, word, "web"), 1, "web", "created")
    one_error(vmm(home, "exec", "web", "true"), 125, "web", "vmm start web")


@BOTH
def test_a_host_without_any_cgroup_controller(kind: str, home: Path) -> None:
    """In a mount namespace without /sys/fs/cgroup: a limit asked for is an error, a default is left out."""
    need("root", "busybox", "overlay")
    if kind == "--vm":
        need("qemu", "kernel", "guest-helper")
    command = f"umount -l /sys/fs/cgroup; exec {sys.executable} -m cli.main run {kind} --rm --network none"
    env = {**os.environ, "VMM_HOME": str(home), "VMM_ACCEL": "tcg"}

    def without(words: str) -> subprocess.CompletedProcess[str]:
        argv = ["unshare", "--mount", "sh", "-c", f"{command} {words}"]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, env=env, check=False)

    with leaks.none(home):
        done = without("tiny echo hi")
        assert (done.stdout, done.returncode) == ("hi\n", 0), done.stderr
        if kind == "--ct":
            one_error(without("--memory 64M tiny true"), 125, "memory", "cgroup")


def test_a_guest_that_never_reports_is_given_up_in_time(home: Path) -> None:
    """A deadline below what any boot takes: the error says what was waited for, and no QEMU stays."""
    need("root", "busybox", "qemu", "kernel", "guest-helper")
    run = ("run", "--vm", "--rm", "--accel", "tcg", "--boot", "microvm", "--network", "none", "tiny", "true")
    with leaks.none(home):
        one_error(vmm(home, *run, VMM_BOOT_TIMEOUT_S="0.3"), 125, "0.3 s", "guest")


def test_sigterm_before_the_start_leaves_nothing(tmp_path: Path) -> None:
    """Ended while the image is being made: the name is free again, and nothing half made shows."""
    need("root", "busybox")
    home = tmp_path / "home"
    words = [
        sys.executable,
        "-m",
        "cli.main",
        "run",
        "--ct",
        "--name",
        "early",
        "--network",
        "none",
        "tiny",
        "sleep",
        "9",
    ]
    for delay_s in (0.15, 0.25, 0.35):
        with subprocess.Popen(
            words, env={**os.environ, "VMM_HOME": str(home)}, stderr=subprocess.PIPE
        ) as process:
            time.sleep(delay_s)
            process.terminate()
            # 0: it was running already, and a pid 1 without a handler ignores SIGTERM (pid_namespaces(7))
            assert process.wait(30) in (143, -15, 125, 0)
        with leaks.none(home):
            vmm(home, "rm", "-f", "early")
        assert vmm(home, "ls", "-a", "-q").stdout == ""
    leaks.forget(home)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--stop-signal", "FOO"), "no signal 'FOO'"),
        (("--dns", "resolver"), "not an address"),
        (("--network", "none", "--ip", "10.1.2.3"), "--network none has no address of its own"),
        (("--network", "host", "--network-alias", "web"), "--network host has no address of its own"),
        (("-p", "8000-8002:80-81"), "3 ports of the host for 2 inside"),
        (("--cpuset-cpus", "4000"), "cpuset"),
        (("--ulimit", "nofile=999999999999"), "Operation not permitted"),
        (("--log-opt", "colour=red"), "log option"),
        (("--cpus", "4096"), f"this host has {os.cpu_count()}"),
    ],
)
def test_a_container_s_bad_flag(words: tuple[str, ...], told: str, home: Path) -> None:
    need("root", "busybox", "guest-helper", "cgroup", "overlay")
    with leaks.none(home):
        one_error(vmm(home, "run", "--ct", "--network", "none", *words, "tiny", "true"), 125, told)
