"""QEMU as nobody in particular: what the words before its own take away, each of them, and its own cgroup."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from capabilities import need
from machines import machine

from host.edges import Edges
from vmm.confine import Confinement, closed_to, confinement

WHO = Confinement(64901, 64901)


def rights(prefix: list[str]) -> dict[str, str]:
    """What /proc says of a program behind these words, begun by a root who has all there is to lose."""
    generous = ["setpriv", "--inh-caps=+chown,+kill", "--groups=4,27", "--"]
    words = [*generous, *prefix, "cat", "/proc/self/status"]
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    lines = dict(line.split(":", 1) for line in told.splitlines())
    found = {name: " ".join(lines[name].split()) for name in ("Uid", "Gid", "Groups", "NoNewPrivs")}
    return found | {name: lines[name].strip().strip("0") for name in ("CapInh", "CapPrm", "CapEff", "CapBnd")}


NOTHING = {
    **{"Uid": "64901 64901 64901 64901", "Gid": "64901 64901 64901 64901", "Groups": "", "NoNewPrivs": "1"},
    **{"CapInh": "", "CapPrm": "", "CapEff": "", "CapBnd": ""},
}


def test_nothing_is_left_to_gain() -> None:
    need("root")
    assert rights(WHO.prefix(False)) == NOTHING


@pytest.mark.parametrize("word", WHO.prefix(False)[2:-1])
def test_each_word_takes_something_away(word: str) -> None:
    need("root")
    words = [one for one in WHO.prefix(False) if one != word]
    assert rights(words) != NOTHING


def left_by_a_killed_caller(words: str, pause_s: float, wait_s: float) -> int:
    """The pid of a program whose caller was killed, `pause_s` after it had begun it, `wait_s` ago."""
    line = "from vmm.confine import Confinement; import subprocess, time\n"
    line += f"one = subprocess.Popen({words}); time.sleep({pause_s})\n"
    line += "print(one.pid, flush=True); time.sleep(60)"
    return of_a_killed_caller(line, wait_s)


def of_a_killed_caller(line: str, wait_s: float) -> int:
    """The pid that this Python prints, which was killed then, `wait_s` ago."""
    caller = subprocess.Popen([sys.executable, "-c", line], stdout=subprocess.PIPE, text=True)
    assert caller.stdout is not None
    pid = int(caller.stdout.readline())
    caller.kill()
    caller.wait()
    caller.stdout.close()
    time.sleep(wait_s)
    return pid


def test_it_does_not_outlive_a_caller_that_died_before_the_kernel_knew_of_it() -> None:
    need("root")
    late = ["sh", "-c", 'sleep 0.5; exec "$@"', "sh"]  # as if the helper were slow to begin
    words = f"[*{late}, *Confinement(64901, 64901).prefix(True), 'sleep', '60']"
    assert not _runs(left_by_a_killed_caller(words, 0, 1.5))


def test_it_dies_with_its_caller_where_asked() -> None:
    need("root")
    for asked in (True, False):
        words = f"[*Confinement(64901, 64901).prefix({asked}), 'sleep', '60']"
        pid = left_by_a_killed_caller(words, 0.3, 0.3)
        assert _runs(pid) is not asked
        if not asked:
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("end", ["killed", "let go", "killed before"])
def test_it_is_held_by_its_leash_until_it_is_let_go(end: str) -> None:
    need("root", "guest-helper")
    late = ["sh", "-c", 'sleep 0.5; exec "$@"', "sh"] if end == "killed before" else []
    line = "from vmm.confine import Confinement; from vmm.leash import Leash; import subprocess, time\n"
    line += f"leash = Leash(); words = [*{late}, *Confinement(64901, 64901).prefix(False, leash.theirs)]\n"
    line += "one = subprocess.Popen([*words, 'sleep', '60'], pass_fds=[leash.theirs])\n"
    line += f"time.sleep({0 if late else 0.3}); {'leash.let_go()' if end == 'let go' else ''}\n"
    line += "print(one.pid, flush=True); time.sleep(60)"
    pid = of_a_killed_caller(line, 1.0)
    assert _runs(pid) is (end == "let go")
    if end == "let go":
        os.kill(pid, signal.SIGKILL)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


def test_a_folder_closed_to_its_user_keeps_it_root_and_is_named(tmp_path: Path) -> None:
    need("root")
    for folder in (tmp_path, *list(tmp_path.parents)[:2]):
        folder.chmod(0o711)
    file = tmp_path / "closed" / "deep" / "file"
    file.parent.mkdir(parents=True)
    assert confinement([str(file)], kvm=False).uid is not None
    (tmp_path / "closed").chmod(0o700)
    assert closed_to(file, 64901, (64901,)) == tmp_path / "closed"
    told = confinement([str(file)], kvm=False)
    assert told.uid is None
    assert f"chmod o+x {tmp_path}/closed" in told.note
    os.chown(tmp_path / "closed", 0, 64901)
    (tmp_path / "closed").chmod(0o710)
    assert closed_to(file, 64901, (64901,)) is None


@pytest.mark.machine
def test_a_machine_is_in_its_own_cgroup_under_a_sandbox_and_owns_its_own_files_only() -> None:
    need("root", "qemu", "kernel", "guest-helper", "busybox", "cgroup")
    with machine("sleep", "60") as it:
        it.start(Edges())
        pid = it.pid()
        groups = Path(f"/proc/{pid}/cgroup").read_text()
        assert f"/{it.run_dir.parent.name}-{it.folder.name}" in groups
        status = Path(f"/proc/{pid}/status").read_text()
        assert "Seccomp:\t2" in status  # -sandbox on; without it QEMU has no filter
        assert "NoNewPrivs:\t1" in status
        uid = Path(f"/proc/{pid}").stat().st_uid
        assert uid != 0
        owned = {path.name for path in it.folder.iterdir() if path.stat().st_uid == uid}
        assert owned == {"disk.qcow2", "log", "status", "serial.log"}
        maps = Path(f"/proc/{pid}/fd")
        for fd in maps.iterdir():
            target = os.readlink(fd)
            if target.startswith("/") and "/images/" in target:
                flags = Path(f"/proc/{pid}/fdinfo/{fd.name}").read_text().split()[3]
                assert int(flags, 8) & os.O_ACCMODE == os.O_RDONLY, (
                    f"{target} of the store is open for writing"
                )
    assert not [path for path in Path("/sys/fs/cgroup").glob(f"*/vmm/*{it.folder.name}")]
