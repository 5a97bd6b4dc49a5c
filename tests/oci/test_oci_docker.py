"""dockerd with our runtime added, in a network and mount namespace of its own: run, exec, stop, statuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from capabilities import need
from oci_lab import Bundle

pytestmark = pytest.mark.slow


class Docker:
    """A docker daemon that knows our runtime, and its command line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        runtime = folder / "vmm-oci"
        runtime.write_text(
            f'#!/bin/sh\nPYTHONPATH={Path.cwd()} exec {sys.executable} -m containers.oci.main "$@"\n'
        )
        runtime.chmod(0o755)
        self.socket = f"unix://{folder}/s"
        options = (
            f"--data-root {folder}/data --exec-root {folder}/exec -H {self.socket} --pidfile {folder}/pid"
        )
        options += f" --exec-opt native.cgroupdriver=cgroupfs -s overlay2 --add-runtime vmm={runtime}"
        script = f"ip link set lo up; exec dockerd {options}"
        with open(folder / "log", "w", encoding="utf-8") as log:
            argv = ["unshare", "-n", "-m", "sh", "-c", script]
            self.process = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)

    def __call__(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        argv = ["docker", "-H", self.socket, *words]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, **more)  # type: ignore[call-overload, no-any-return]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self("run", "--rm", "--runtime", "vmm", *words)

    def ready(self) -> bool:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            if self("version").returncode == 0:
                return True
            time.sleep(0.1)
        return False

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    need("root", "docker", "busybox", "cgroup")
    folder = Path("/tmp") / f"oci-docker-{os.getpid()}"  # containerd's sockets want a short path
    folder.mkdir()
    daemon = Docker(folder)
    try:
        assert daemon.ready(), (folder / "log").read_text()[-2000:]
        rootfs = Bundle(tmp_path_factory.mktemp("image")).rootfs
        argv = f"tar -C {rootfs} -c . | docker -H {daemon.socket} import - tiny"
        subprocess.run(["sh", "-c", argv], check=True, capture_output=True)
        yield daemon
    finally:
        for name in daemon("ps", "-aq").stdout.split():
            daemon("rm", "-f", name)
        daemon.end()
        shutil.rmtree(folder, ignore_errors=True)


def test_run_and_statuses(docker: Docker) -> None:
    told = docker.run("tiny", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (told.returncode, told.stdout, told.stderr) == (3, "out\n", "err\n")
    assert docker.run("tiny", "nothere").returncode == 127
    assert docker.run("tiny", "/etc").returncode == 126
    assert docker.run("-i", "tiny", "true").returncode == 0


def test_network_comes_through_dockers_hook(docker: Docker) -> None:
    assert "inet 172.17." in docker.run("tiny", "ip", "addr").stdout


def test_exec_stats_pause_update_stop(docker: Docker) -> None:
    limits = ["--memory", "32m", "--pids-limit", "50", "--cpus", "0.5"]
    made = docker("run", "-d", "--name", "t1", "--runtime", "vmm", *limits, "tiny", "sleep", "1000")
    assert made.returncode == 0, made.stderr
    assert "sleep 1000" in docker("exec", "t1", "ps").stdout
    assert docker("exec", "t1", "sh", "-c", "exit 9").returncode == 9
    assert "a terminal" in docker("exec", "-t", "t1", "sh", "-c", "test -t 1 && echo a terminal").stdout
    assert "sleep 1000" in docker("top", "t1").stdout
    docker("pause", "t1")
    assert "Paused" in docker("ps").stdout
    docker("unpause", "t1")
    assert docker("update", "--memory", "64m", "--memory-swap", "128m", "t1").returncode == 0
    began = time.monotonic()
    docker("stop", "-t", "1", "t1")
    assert time.monotonic() - began < 6
    (told,) = json.loads(docker("inspect", "t1").stdout)
    assert (told["State"]["Status"], told["State"]["ExitCode"]) == ("exited", 137)
    assert docker("start", "t1").returncode == 0
    assert docker("rm", "-f", "t1").returncode == 0


def test_options_reach_the_container(docker: Docker) -> None:
    flags = "--read-only --tmpfs /tmp:mode=1777 --cap-drop ALL --security-opt no-new-privileges"
    flags += " --hostname hh -u 5:6 -w /tmp -e A=b"
    script = (
        "id -u; pwd; hostname; echo $A; grep -E 'CapBnd|NoNew|Seccomp:' /proc/self/status; touch x && echo ok"
    )
    told = docker.run(*flags.split(), "tiny", "sh", "-c", script)
    rights = "CapBnd:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n"
    assert told.stdout == f"5\n/tmp\nhh\nb\n{rights}ok\n", told.stderr


def test_terminal_and_init(docker: Docker) -> None:
    assert "/dev/console" in docker.run("-t", "tiny", "ls", "/dev/console").stdout
    told = docker.run("--init", "tiny", "ps").stdout
    assert "docker-init" in told


def test_nothing_stays(docker: Docker) -> None:
    docker.run("tiny", "true")
    state = docker.folder / "exec" / "runtime-runc" / "moby"
    assert not state.exists() or os.listdir(state) in ([], ["filters"])
    assert docker("ps", "-aq").stdout == ""
