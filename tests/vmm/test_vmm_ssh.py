"""SSH to a guest whose sshd is not there yet: one sentence, and no word of the library's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
