"""Bundles really run: what is seen inside, the lifecycle, exec, hooks, errors, and that nothing stays."""

from __future__ import annotations

import array
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from oci_lab import Bundle

from containers.oci import states


def test_run_gives_the_status_and_leaves_nothing(bundle: Bundle) -> None:
    told = bundle.sh("echo out; echo err >&2; exit 7")
    assert (told.returncode, told.stdout, told.stderr) == (7, "out\n", "err\n")
    # pid 1 of a namespace is deaf to its own SIGKILL: without one it is a process as any other
    bundle.linux["namespaces"] = [one for one in bundle.linux["namespaces"] if one["type"] != "pid"]
    assert bundle.sh("kill -9 $$").returncode == 137
    assert bundle.left() == []


def test_inside_is_what_the_bundle_says(bundle: Bundle) -> None:
    bundle.config["hostname"] = "inside"
    bundle.config["root"]["readonly"] = True
    bundle.process |= {"cwd": "/made/here", "env": ["PATH=/bin", "A=b"]}
    bundle.process["user"] = {"uid": 7, "gid": 8, "additionalGids": [9], "umask": 0o077}
    (bundle.rootfs / "made" / "here").mkdir(parents=True)
    told = bundle.sh(
        "hostname; pwd; id; echo $A $HOME; umask; echo $$; touch /x; ls /proc/self/fd; ip -o link"
    )
    assert "inside\n/made/here\nuid=7 gid=8 groups=9\nb /\n0077\n1\n" in told.stdout
    assert "Read-only file system" in told.stderr
    assert "0\n1\n2\n3\n" in told.stdout  # 3 is ls' own: nothing of ours is inherited
    assert told.stdout.count("LOOPBACK") == 1
    assert "UP" in told.stdout


def test_own_namespaces(bundle: Bundle) -> None:
    bundle.linux["namespaces"] += [{"type": "time"}]
    bundle.linux["timeOffsets"] = {"monotonic": {"secs": 86400}}
    told = bundle.sh(
        "for n in cgroup ipc mnt net pid uts time; do ls -l /proc/self/ns/$n; done; cat /proc/uptime"
    )
    for kind in ("cgroup", "ipc", "mnt", "net", "pid", "uts", "time"):
        assert os.readlink(f"/proc/self/ns/{kind}") not in told.stdout
    assert told.stdout.count("->") == 7


def test_user_namespace(bundle: Bundle) -> None:
    bundle.linux["namespaces"].append({"type": "user"})
    bundle.linux["uidMappings"] = [{"containerID": 0, "hostID": 100000, "size": 1000}]
    bundle.linux["gidMappings"] = [{"containerID": 0, "hostID": 100000, "size": 1000}]
    os.chown(bundle.rootfs / "tmp", 100000, 100000)
    for path in (bundle.path, *list(bundle.path.parents)[:3]):
        path.chmod(0o755)
    told = bundle.sh("id -u; cat /proc/self/uid_map; touch /tmp/mine; echo x > /dev/null && echo devices")
    assert told.stdout.split() == ["0", "0", "100000", "1000", "devices"], told.stderr
    assert (bundle.rootfs / "tmp" / "mine").stat().st_uid == 100000


def test_joined_namespace_is_the_others(bundle: Bundle) -> None:
    holder = subprocess.Popen(["unshare", "-n", "busybox", "sh", "-c", "echo; exec cat"], stdin=-1, stdout=-1)
    try:
        assert holder.stdout is not None
        holder.stdout.read(1)
        for one in bundle.linux["namespaces"]:
            if one["type"] == "network":
                one["path"] = f"/proc/{holder.pid}/ns/net"
        assert os.readlink(f"/proc/{holder.pid}/ns/net") in bundle.sh("ls -l /proc/self/ns/net").stdout
        for one in bundle.linux["namespaces"]:
            if one["type"] == "network":
                one["path"] = f"/proc/{holder.pid}/ns/ipc"
        assert "it is ipc:[" in bundle.sh("true").stderr
    finally:
        holder.kill()
        holder.communicate()


def test_capabilities_are_the_five_sets(bundle: Bundle) -> None:
    bundle.process["user"] = {"uid": 5, "gid": 5}
    bundle.process["capabilities"] = {
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NOT_YET_KNOWN"],
        "permitted": ["CAP_CHOWN", "CAP_KILL"],
        "effective": ["CAP_KILL"],
        "inheritable": ["CAP_KILL"],
        "ambient": ["CAP_KILL"],
    }
    told = bundle.sh("grep -E 'Cap|NoNew' /proc/self/status").stdout.split()
    found = {key.rstrip(":"): int(value, 16) for key, value in zip(told[::2], told[1::2], strict=True)}
    assert found == {"CapInh": 32, "CapPrm": 32, "CapEff": 32, "CapBnd": 33, "CapAmb": 32, "NoNewPrivs": 1}


def test_seccomp_of_the_bundle(bundle: Bundle) -> None:
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 42}
    bundle.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}
    for no_new in (True, False):
        bundle.process["noNewPrivileges"] = no_new
        told = bundle.sh("mkdir /tmp/x; grep Seccomp: /proc/self/status")
        assert "No message of desired type" in told.stderr
        assert told.stdout.split() == ["Seccomp:", "2"]
    del bundle.linux["seccomp"]
    assert bundle.sh("mkdir /tmp/x").returncode == 0


def test_masked_and_read_only_paths(bundle: Bundle) -> None:
    told = bundle.sh("cat /proc/keys | wc -c; ls /proc/acpi | wc -l; echo 1 > /proc/sys/kernel/panic; mount")
    assert told.stdout.split()[:2] == ["0", "0"]
    assert "Read-only" in told.stderr
    (bundle.rootfs / "tmp" / "secret").write_text("x")
    bundle.linux["maskedPaths"] = ["/tmp/secret", "/nowhere"]
    bundle.linux["readonlyPaths"] = ["/tmp/secret", "/nowhere/either"]
    assert bundle.sh("cat /tmp/secret").stdout == ""
    bundle.linux["maskedPaths"] = []
    assert bundle.sh("cat /tmp/secret").stdout == "x"


def test_mounts_and_their_options(bundle: Bundle, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    (shared / "deep").mkdir(parents=True)
    (bundle.rootfs / "keep").mkdir()
    (bundle.rootfs / "keep" / "file").write_text("kept")
    bundle.config["mounts"] += [
        {"destination": "/a/b", "source": str(shared), "options": ["rbind", "ro", "nosuid"]},
        {"destination": "/file", "source": str(tmp_path / "one"), "type": "bind", "options": ["bind"]},
        {"destination": "/keep", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "size=64k"]},
    ]
    (tmp_path / "one").write_text("from the host")
    told = bundle.sh(
        "touch /a/b/x; cat /file; cat /keep/file; grep ' /a/b ' /proc/mounts; echo new > /keep/file"
    )
    assert told.stdout.startswith("from the hostkept")
    assert "ro,nosuid" in told.stdout
    assert "Read-only" in told.stderr
    assert (bundle.rootfs / "keep" / "file").read_text() == "kept"


def test_mount_target_through_a_link_stays_inside(bundle: Bundle, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (bundle.rootfs / "way").symlink_to(outside)
    (bundle.rootfs / "up").symlink_to("../../../../../../../../tmp")
    bundle.config["mounts"] += [
        {"destination": "/way/out", "type": "tmpfs", "source": "tmpfs"},
        {"destination": "/up/there", "type": "tmpfs", "source": "tmpfs"},
    ]
    told = bundle.sh("grep -E 'out|there' /proc/mounts")
    assert list(outside.iterdir()) == []
    assert not Path("/tmp/there").exists()
    # a link whose target the root lacks cannot be followed inside: one error; else both are mounted inside
    assert told.returncode == 1 or str(outside) + "/out" in told.stdout


def test_working_directory_that_leads_out_is_refused(bundle: Bundle) -> None:
    """CVE-2024-21626: /proc/self/fd/N of a descriptor that leaked."""
    for number in range(3, 12):
        bundle.process["cwd"] = f"/proc/self/fd/{number}"
        told = bundle.sh("pwd; ls")
        assert told.returncode == 1
        assert told.stdout == ""


def test_interpreter_cannot_be_reached_through_proc_self_exe(bundle: Bundle) -> None:
    """CVE-2019-5736."""
    (bundle.rootfs / "bin" / "evil").write_text("#!/proc/self/exe\n")
    (bundle.rootfs / "bin" / "evil").chmod(0o755)
    (bundle.rootfs / "bin" / "link").symlink_to("/proc/self/exe")
    for program in ("/bin/evil", "/bin/link", "/proc/self/exe"):
        bundle.process["args"] = [program, "-c", "print(1)"]
        told = bundle.oci("run", "--bundle", str(bundle.path), bundle.name)
        assert "symbolic links" in told.stderr, told
        assert told.stdout == ""
    bundle.create("sleep", "100")
    bundle.oci("start", bundle.name)
    assert "symbolic links" in bundle.oci("exec", bundle.name, "/bin/evil").stderr


def test_devices(bundle: Bundle) -> None:
    node = {"path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 3, "gid": 4}
    bundle.linux["devices"] = [node]
    told = bundle.sh(
        "stat -c '%a %u %g %t %T' /dev/mine; echo x > /dev/null && echo fine; ls -l /dev/fd /dev/ptmx"
    )
    assert told.stdout.startswith("640 3 4 1 3\nfine\n")
    bundle.linux["devices"] = [{"path": "/dev/kmsg2", "type": "c", "major": 1, "minor": 11}]
    assert "Operation not permitted" in bundle.sh("cat /dev/kmsg2").stderr  # made, but the cgroup forbids it


def test_resources_are_set_and_updated(bundle: Bundle) -> None:
    bundle.linux["resources"] |= {
        "memory": {"limit": 33554432},
        "pids": {"limit": 20},
        "cpu": {"shares": 512},
    }
    bundle.create("sleep", "100")
    assert bundle.oci("start", bundle.name).returncode == 0
    state = states.load(bundle.root, bundle.name)
    group = state.group()
    if group.version != 1:
        pytest.skip("needs cgroup v1: the files are named after it")

    def value(controller: str, file: str) -> str:
        return Path(f"{group.directory(controller)}/{file}").read_text().strip()

    assert value("memory", "memory.limit_in_bytes") == "33554432"
    assert value("pids", "pids.max") == "20"
    assert value("cpu", "cpu.shares") == "512"
    assert bundle.oci("update", "--memory", "67108864", bundle.name).returncode == 0
    assert value("memory", "memory.limit_in_bytes") == "67108864"
    changes = json.dumps({"memory": {"limit": 134217728, "swap": 134217728}, "pids": {"limit": 30}})
    assert bundle.oci("update", "--resources", "-", bundle.name, input=changes).returncode == 0
    assert value("pids", "pids.max") == "30"
    assert str(state.pid) in value("memory", "cgroup.procs").split()


def test_process_limits(bundle: Bundle) -> None:
    bundle.process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 33, "hard": 44}]
    bundle.process["oomScoreAdj"] = 77
    told = bundle.sh("ulimit -Sn; ulimit -Hn; cat /proc/self/oom_score_adj")
    assert told.stdout.split() == ["33", "44", "77"]
    bundle.process["rlimits"] = [{"type": "RLIMIT_NOTHING", "soft": 1, "hard": 1}]
    assert "no such limit" in bundle.sh("true").stderr
    assert bundle.left() == []


def test_sysctls_of_own_namespaces_only(bundle: Bundle) -> None:
    bundle.linux["sysctl"] = {"net.ipv4.ip_forward": "1"}
    assert bundle.sh("cat /proc/sys/net/ipv4/ip_forward").stdout == "1\n"
    bundle.linux["sysctl"] = {"kernel.panic": "1"}
    told = bundle.sh("true")
    assert told.returncode == 1
    assert "not of a namespace" in told.stderr


def test_lifecycle(bundle: Bundle, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    bundle.config["annotations"] = {"some.key": "value"}
    bundle.create("sh", "-c", "echo began; trap 'exit 5' TERM; while :; do sleep 0.05; done",
                  flags=("--pid-file", str(pid_file)))  # fmt: skip
    told = json.loads(bundle.oci("state", bundle.name).stdout)
    assert (told["status"], told["pid"]) == ("created", int(pid_file.read_text()))
    assert told["annotations"] == {"some.key": "value"}
    assert bundle.said() == ""
    assert bundle.oci("delete", bundle.name).returncode == 1
    assert bundle.oci("start", bundle.name).returncode == 0
    assert bundle.status() == "running"
    assert "it is running" in bundle.oci("start", bundle.name).stderr
    assert "with that id exists" in bundle.oci("create", "--bundle", str(bundle.path), bundle.name).stderr
    assert bundle.oci("pause", bundle.name).returncode == 0
    assert bundle.status() == "paused"
    assert bundle.oci("resume", bundle.name).returncode == 0
    assert bundle.oci("list", "-q").stdout == f"{bundle.name}\n"
    assert json.loads(bundle.oci("ps", "--format", "json", bundle.name).stdout)[0] == told["pid"]
    assert bundle.oci("kill", bundle.name, "TERM").returncode == 0
    assert bundle.until("stopped") == "stopped"
    assert bundle.said() == "began\n"
    assert "not running" in bundle.oci("kill", bundle.name, "TERM").stderr
    assert bundle.oci("delete", bundle.name).returncode == 0
    assert bundle.left() == []
    assert bundle.oci("delete", bundle.name).returncode == 1
    assert bundle.oci("delete", "--force", bundle.name).returncode == 0


def test_frozen_container_is_killed(bundle: Bundle) -> None:
    bundle.create("sleep", "100")
    bundle.oci("start", bundle.name)
    bundle.oci("pause", bundle.name)
    assert bundle.oci("kill", bundle.name, "KILL").returncode == 0
    assert bundle.until("stopped") == "stopped"


def test_delete_force_ends_all(bundle: Bundle) -> None:
    bundle.create("sh", "-c", "sleep 1000 & sleep 1000")
    bundle.oci("start", bundle.name)
    bundle.oci("pause", bundle.name)
    assert bundle.oci("delete", "--force", bundle.name).returncode == 0
    assert bundle.left() == []


def test_command_that_cannot_run(bundle: Bundle) -> None:
    bundle.create("nothere")
    told = bundle.oci("start", bundle.name)
    assert told.returncode == 1
    assert "exec 'nothere': no such file or directory" in told.stderr
    assert bundle.until("stopped") == "stopped"
    bundle.oci("delete", bundle.name)
    bundle.create("/etc")
    assert "permission denied" in bundle.oci("start", bundle.name).stderr


def test_exec(bundle: Bundle, tmp_path: Path) -> None:
    bundle.linux["namespaces"] = [one for one in bundle.linux["namespaces"] if one["type"] != "cgroup"]
    bundle.create("sleep", "100")
    bundle.oci("start", bundle.name)
    script = "echo $X; pwd; id; grep CapBnd /proc/self/status; cat /proc/self/cgroup; ps; exit 9"
    flags = ["--env", "X=y", "--cwd", "/etc", "--user", "3:4"]
    told = bundle.oci("exec", *flags, bundle.name, "sh", "-c", script)
    assert told.returncode == 9, told.stderr
    assert told.stdout.startswith("y\n/etc\nuid=3 gid=4\n")
    assert "800405fb" in told.stdout
    assert f"/vmm-oci-test/{bundle.name}" in told.stdout
    assert "sleep 100" in told.stdout
    pid_file = tmp_path / "exec.pid"
    process = {"args": ["sleep", "99"], "cwd": "/", "env": ["PATH=/bin"]}
    (tmp_path / "p.json").write_text(json.dumps(process))
    flags = ["--process", str(tmp_path / "p.json"), "--detach", "--pid-file", str(pid_file)]
    bundle.detached("exec", *flags, bundle.name)
    assert b"sleep\x0099" in Path(f"/proc/{pid_file.read_text()}/cmdline").read_bytes()
    assert "no such file" in bundle.oci("exec", bundle.name, "nothere").stderr
    bundle.oci("kill", bundle.name, "KILL")
    bundle.until("stopped")
    assert "not running" in bundle.oci("exec", bundle.name, "true").stderr


def _console(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    listener.settimeout(10)
    return listener


def _master(listener: socket.socket) -> int:
    peer, _ = listener.accept()
    _, rights, _, _ = peer.recvmsg(100, socket.CMSG_SPACE(4))
    peer.close()
    return array.array("i", rights[0][2])[0]


def _read_all(master: int) -> str:
    said = b""
    try:
        while chunk := os.read(master, 1000):
            said += chunk
    except OSError:
        pass  # EIO: the last holder of the other end is gone
    os.close(master)
    return said.decode()


def test_terminal_through_the_console_socket(bundle: Bundle, tmp_path: Path) -> None:
    bundle.process |= {"terminal": True, "consoleSize": {"height": 33, "width": 99}}
    with _console(tmp_path / "s") as listener:
        bundle.create("sh", "-c", "stty size; ls -l /proc/self/fd/0; echo x > /dev/console; sleep 0.3",
                      flags=("--console-socket", str(tmp_path / "s")))  # fmt: skip
        master = _master(listener)
        assert stat.S_ISCHR(os.fstat(master).st_mode)
        bundle.oci("start", bundle.name)
        said = _read_all(master)
    assert "33 99" in said
    assert "/dev/pts/0" in said
    assert "x" in said
    assert "needs --console-socket" in bundle.oci("create", "--bundle", str(bundle.path), "other").stderr


def test_terminal_of_exec(bundle: Bundle, tmp_path: Path) -> None:
    bundle.create("sleep", "100")
    bundle.oci("start", bundle.name)
    with _console(tmp_path / "s") as listener:
        flags = ["--tty", "--detach", "--console-socket", str(tmp_path / "s")]
        bundle.oci("exec", *flags, bundle.name, "sh", "-c", "test -t 0 && echo a terminal; sleep 0.3")
        assert "a terminal" in _read_all(_master(listener))


HOOK = """
cat > {out}/{name}.json
echo {name} >> {out}/order
if test -e {probe}; then echo {name}-inside >> {out}/order; fi
"""


def _hooks(bundle: Bundle, out: Path, **bad: str) -> None:
    names = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
    made: dict[str, Any] = {}
    for name in names:
        probe = bundle.rootfs / "proc" / "self"
        script = HOOK.format(out=out, name=name, probe=probe)
        made[name] = [
            {"path": "/bin/sh", "args": ["sh", "-c", bad.get(name, script)], "env": ["PATH=/bin:/usr/bin"]}
        ]
    script = "cat > /tmp/state.json; echo startContainer > /tmp/ran"
    made["startContainer"] = [{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin"]}]
    bundle.config["hooks"] = made


def test_hooks_run_in_their_place_with_the_state(bundle: Bundle, tmp_path: Path) -> None:
    _hooks(bundle, tmp_path)
    bundle.create("sh", "-c", "cat /tmp/ran; sleep 100")
    order = (tmp_path / "order").read_text().split()
    # only createContainer sees the container's mounts
    assert order == ["prestart", "createRuntime", "createContainer", "createContainer-inside"]
    assert not (bundle.rootfs / "tmp" / "ran").exists()
    pid = json.loads(bundle.oci("state", bundle.name).stdout)["pid"]
    assert bundle.oci("start", bundle.name).returncode == 0
    assert json.loads((bundle.rootfs / "tmp" / "state.json").read_text())["id"] == bundle.name
    assert json.loads((tmp_path / "createRuntime.json").read_text())["pid"] == pid
    assert json.loads((tmp_path / "poststart.json").read_text())["status"] == "running"
    bundle.oci("delete", "--force", bundle.name)
    assert json.loads((tmp_path / "poststop.json").read_text())["status"] == "stopped"
    assert bundle.said() == "startContainer\n"


@pytest.mark.parametrize("name", ["prestart", "createRuntime", "createContainer"])
def test_failing_hook_undoes_the_creation(bundle: Bundle, tmp_path: Path, name: str) -> None:
    _hooks(bundle, tmp_path, **{name: "echo too bad >&2; exit 3"})
    told = bundle.oci("create", "--bundle", str(bundle.path), bundle.name)
    assert told.returncode == 1
    assert "too bad" in told.stderr
    assert bundle.left() == []


def test_hook_that_takes_too_long(bundle: Bundle, tmp_path: Path) -> None:
    _hooks(bundle, tmp_path, prestart="sleep 20")
    bundle.config["hooks"]["prestart"][0]["timeout"] = 1
    began = time.monotonic()
    assert "had not ended after 1 s" in bundle.oci("create", "--bundle", str(bundle.path), bundle.name).stderr
    assert time.monotonic() - began < 10
    assert bundle.left() == []


def test_failing_poststart_is_a_warning(bundle: Bundle, tmp_path: Path) -> None:
    _hooks(bundle, tmp_path, poststart="exit 3")
    bundle.create("sleep", "100")
    told = bundle.oci("--log", str(tmp_path / "log"), "--log-format", "json", "start", bundle.name)
    assert told.returncode == 0
    assert json.loads((tmp_path / "log").read_text())["level"] == "warning"
    assert bundle.status() == "running"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            {"mounts": [{"destination": "/x", "source": "/no/such/source", "options": ["bind"]}]},
            "No such file",
        ),
        ({"mounts": [{"destination": "/x", "type": "nofs", "source": "x"}]}, "No such device"),
        ({"mounts": [{"type": "tmpfs"}]}, "destination is missing"),
    ],
)
def test_bad_mounts_are_one_error(bundle: Bundle, change: dict[str, Any], why: str) -> None:
    bundle.config |= change
    told = bundle.sh("true")
    assert told.returncode == 1
    assert why in told.stderr
    assert told.stderr.count("\n") <= 2
    assert bundle.left() == []


@pytest.mark.parametrize(
    ("part", "value", "why"),
    [
        ("intelRdt", {"closID": "x"}, "intelRdt"),
        ("rootfsPropagation", "sideways", "not a propagation"),
        ("resources", {"hugepageLimits": [{"pageSize": "3KB", "limit": 1}]}, "cannot set hugetlb"),
        ("namespaces", [{"type": "mount"}, {"type": "uts"}, {"type": "weird"}], "not known here"),
    ],
)
def test_what_cannot_be_kept_is_refused(bundle: Bundle, part: str, value: Any, why: str) -> None:
    bundle.linux[part] = value
    told = bundle.sh("true")
    assert told.returncode == 1
    assert why in told.stderr
    assert bundle.left() == []


def test_without_a_mount_namespace_delete_takes_the_mounts_away(bundle: Bundle) -> None:
    bundle.linux["namespaces"] = [one for one in bundle.linux["namespaces"] if one["type"] != "mount"]
    bundle.linux["cgroupsPath"] = f"/vmm-oci-test/{bundle.name}"
    told = bundle.sh("mount | grep -c bundle/rootfs; ls /")
    assert told.returncode == 0, told.stderr
    assert bundle.left() == []


def test_killed_create_leaves_what_delete_force_removes(bundle: Bundle, tmp_path: Path) -> None:
    """kill -9 of `create` while its hooks run: the half-made container goes, its process ends by itself."""
    _hooks(bundle, tmp_path, prestart="sleep 30")
    (bundle.path / "config.json").write_text(json.dumps(bundle.config))
    argv = [sys.executable, "-m", "containers.oci.main", "--root", str(bundle.root), "create"]
    process = subprocess.Popen([*argv, "--bundle", str(bundle.path), bundle.name], stderr=subprocess.DEVNULL)
    group = Path(f"/sys/fs/cgroup/pids/vmm-oci-test/{bundle.name}/cgroup.procs")
    end = time.monotonic() + 10
    while not (group.exists() and group.read_text().strip()) and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    end = time.monotonic() + 5
    while group.read_text().strip() and time.monotonic() < end:
        time.sleep(0.01)
    assert group.read_text().strip() == ""
    assert bundle.status() == "creating"
    assert bundle.oci("delete", "--force", bundle.name).returncode == 0
    assert bundle.left() == []


def test_unprivileged_user_without_groups(bundle: Bundle) -> None:
    bundle.process["user"] = {"uid": 1234, "gid": 4321}
    assert bundle.sh("id").stdout == "uid=1234 gid=4321\n"


def test_memory_limit_smaller_than_the_interpreter(bundle: Bundle) -> None:
    """The runtime's own pages are not the container's: a limit of 2 MiB is enough for a sleeping busybox."""
    bundle.linux["resources"]["memory"] = {"limit": 2 << 20}
    told = bundle.sh("echo small")
    assert told.stdout == "small\n", told.stderr


def test_spec_writes_a_bundle_that_runs(bundle: Bundle, tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-m", "containers.oci.main", "spec", "--bundle", str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert told.returncode == 0
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["root"]["path"] == "rootfs"
