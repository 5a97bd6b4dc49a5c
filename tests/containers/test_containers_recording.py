"""What a container in the foreground says reaches its user, and `vmm logs` where it outlives its run."""

from __future__ import annotations

import os
import pty
import signal
import time

import pytest

from host import records
from host.edges import Edges
from host.stdio import Stdio

pytestmark = pytest.mark.timeout(60)

SAYS = "for i in $(seq 300); do echo out$i; echo err$i >&2; done; exit 3"
SAID = "".join(f"out{i}\nerr{i}\n" for i in range(1, 301))


def test_what_it_said_is_kept_in_its_order(lab):
    container = lab.make("/bin/sh", "-c", SAYS, ephemeral=False)
    assert lab.run(container) == (3, SAID)
    assert lab.logs(container) == SAID
    lab.run(container)
    assert lab.logs(container) == SAID * 2, "the next run is told after the first"


def test_two_descriptors_get_what_is_theirs(lab, tmp_path):
    container = lab.make("/bin/sh", "-c", SAYS, ephemeral=False)
    with open(tmp_path / "out", "w+") as out, open(tmp_path / "err", "w+") as err:
        assert container.run(Stdio(0, out.fileno(), err.fileno()), Edges()) == 3
        assert (tmp_path / "out").read_text().split() == [f"out{i}" for i in range(1, 301)]
        assert (tmp_path / "err").read_text().split() == [f"err{i}" for i in range(1, 301)]
    assert sorted(lab.logs(container).split()) == sorted(SAID.split())


def test_what_goes_with_its_run_keeps_nothing_and_has_its_user_s_own_descriptors(lab):
    container = lab.make("/bin/sh", "-c", "echo said; readlink /proc/self/fd/1")
    _, output = lab.run(container)
    assert output.startswith("said\n/")
    assert not (container.folder / "log").exists()


def test_a_terminal_s_words_are_kept_too(lab):
    container = lab.make("/bin/sh", "-c", "tty; echo said", ephemeral=False, tty=True)
    master, slave = pty.openpty()
    try:
        assert container.run(Stdio(slave, slave, slave, tty=True), Edges()) == 0
    finally:
        os.close(master)
        os.close(slave)
    assert lab.logs(container).split() == ["/dev/pts/0", "said"]


def test_a_reader_that_leaves_ends_the_command(lab):
    read, write = os.pipe()
    os.close(read)
    try:
        assert lab.make("/bin/yes", ephemeral=False).run(Stdio(0, write, 2), Edges()) != 0
    finally:
        os.close(write)


def test_a_signal_gets_through_while_nobody_reads(lab):
    container = lab.make("/bin/sh", "-c", "trap 'exit 5' TERM; yes & wait", ephemeral=False)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as soon as nothing is passed on any more
        os._exit(container.run(Stdio(0, write, write), Edges()))
    try:
        while not (container.folder / "log").exists():
            time.sleep(0.02)
        time.sleep(0.3)  # the pipe is full by then, and nobody empties it
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 20
        while container.pid() and time.monotonic() < deadline:
            time.sleep(0.02)
        while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
            os.kill(pid, signal.SIGTERM)  # after the command's end: leave unsaid what nobody reads
            time.sleep(0.02)
        assert os.waitstatus_to_exitcode(ended[1]) == 5
    finally:
        os.close(read)
        os.close(write)


@pytest.mark.parametrize("ephemeral", [True, False])
def test_a_user_opens_dev_stdout_anew(lab, ephemeral):
    script = "echo said > /dev/stdout && echo told > /dev/stderr"
    container = lab.make("/bin/sh", "-c", script, user="1000", ephemeral=ephemeral)
    read, write = os.pipe()
    try:
        assert container.run(Stdio(0, write, write), Edges()) == 0
        assert os.read(read, 100) == b"said\ntold\n"
    finally:
        os.close(read)
        os.close(write)


def test_a_user_opens_dev_stdout_anew_in_a_detached_one(lab):
    container = lab.make("/bin/sh", "-c", "echo said > /dev/stdout", user="1000")
    records.write(container.folder / "instance.json", {"spec": container.spec.to_record()})
    container.start(Edges())
    assert lab.logs(container, follow=True) == "said\n"
