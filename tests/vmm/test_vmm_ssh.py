"""SSH to a guest whose sshd is slow, or not there yet."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from vmm import readiness, ssh

# QEMU takes a connection, and hangs up when the guest refuses it. In a process of its own: pytest keeps logs.
_SCRIPT = """
import socket, sys, threading
from pathlib import Path
from types import SimpleNamespace
from host.errors import DeadlinePassed
from vmm import ssh

def refuse(forward):
    forward.accept()[0].close()

run = Path(sys.argv[1])
with socket.create_server(("127.0.0.1", 0)) as forward:
    ssh.note_address(run, "127.0.0.1", forward.getsockname()[1])
    threading.Thread(target=refuse, args=(forward,), daemon=True).start()
    try:
        with ssh.connected(SimpleNamespace(folder=run / "m", run_dir=run), 5.0):
            pass
    except DeadlinePassed as error:
        print(error)
"""


def test_a_port_behind_which_nobody_listens_yet_is_one_sentence(tmp_path: Path) -> None:
    words = [sys.executable, "-c", _SCRIPT, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.startswith("cannot log in to m:")
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("after_s", "said", "state"),
    [
        (0.15, b"SSH-2.0-slow", "ssh-ready"),
        (1.0, b"SSH-2.0-slower", "booting"),
        (0.0, b"220 mail", "booting"),
    ],
)
def test_a_list_waits_for_sshds_that_are_slow_to_say_their_first_word(
    tmp_path: Path, after_s: float, said: bytes, state: str
) -> None:
    """An emulated Debian's needs 0.13 s and more: a machine would stay `booting` for good."""

    def answer() -> None:
        line, _ = there.accept()
        with line, contextlib.suppress(OSError):
            time.sleep(after_s)
            line.sendall(said)

    with socket.create_server(("127.0.0.1", 0)) as there:
        ssh.note_address(tmp_path, "127.0.0.1", there.getsockname()[1])
        guest = threading.Thread(target=answer)
        guest.start()
        knocked = readiness.knock(tmp_path)
        assert knocked
        assert readiness.glance(tmp_path, knocked) == state
        guest.join()
    if state == "ssh-ready":
        assert readiness.knock(tmp_path) is None  # once seen, nobody knocks again
        assert readiness.glance(tmp_path) == state


def test_where_nobody_listens_a_machine_is_booting(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as there:
        ssh.note_address(tmp_path, "127.0.0.1", there.getsockname()[1])
    assert readiness.glance(tmp_path, readiness.knock(tmp_path)) == "booting"
