"""vmm-guest init: the reaper of containers and the benchmark's common init."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from capabilities import need

from host.paths import guest_helper


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    need("guest-helper")
    return subprocess.run(
        [guest_helper(), "init", *words], capture_output=True, text=True, timeout=20, check=False
    )


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -15 $$", 143)]
)
def test_the_status_is_the_commands_own(script: str, status: int) -> None:
    assert run("--", "sh", "-c", script).returncode == status


def test_what_cannot_run(tmp_path: Path) -> None:
    missing = run("--", "no-such-program")
    assert missing.returncode == 127
    assert "cannot execute no-such-program: No such file or directory" in missing.stderr
    (tmp_path / "plain").write_text("no program")
    assert run("--", str(tmp_path / "plain")).returncode == 126
    assert run("--nonsense", "--", "true").returncode == 125


def test_the_mark_is_a_monotonic_stamp_before_the_command() -> None:
    before = time.monotonic_ns()
    told = run("--mark", "--", "sh", "-c", "echo command >&2").stderr.split("\n")
    word, stamp = told[0].split()
    assert word == "vmm-init"
    assert before < int(stamp) < time.monotonic_ns()
    assert told[1] == "command"


def test_signals_are_forwarded() -> None:
    need("guest-helper")
    script = "trap 'echo got; exit 9' USR1; echo ready; while :; do sleep 0.05; done"
    with subprocess.Popen([guest_helper(), "init", "--", "sh", "-c", script], stdout=subprocess.PIPE) as one:
        assert one.stdout is not None
        assert one.stdout.readline() == b"ready\n"
        one.send_signal(signal.SIGUSR1)
        assert one.stdout.readline() == b"got\n"
        assert one.wait(10) == 9


def test_orphans_are_reaped_by_pid_1() -> None:
    need("guest-helper", "root")
    script = "(sleep 0.05 &); sleep 0.4; grep -s State /proc/[0-9]*/status | grep -c Z; true"
    line = ["unshare", "--pid", "--fork", "--mount-proc", guest_helper(), "init", "--", "sh", "-c", script]
    assert subprocess.run(line, capture_output=True, text=True, timeout=20, check=False).stdout == "0\n"


def test_the_status_goes_to_a_descriptor_that_the_command_does_not_get() -> None:
    need("guest-helper")
    read_end, write_end = os.pipe()
    script = f"test -e /proc/self/fd/{write_end} && echo leaked; exit 3"
    line = [guest_helper(), "hold", "--status-fd", str(write_end), "--", "sh", "-c", script]
    done = subprocess.run(line, pass_fds=[write_end], capture_output=True, timeout=20, check=False)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as told:
        assert told.read() == b"exit 3\n"
    assert done.stdout == b""
