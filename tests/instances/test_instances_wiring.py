"""Request and image -> spec: docker's rules for the command, every flag in the spec, plans without rights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from capabilities import need

from containers.spec import ContainerSpec
from host.errors import Failure, NotFound, Unsupported, Usage
from images.config import ImageConfig
from images.store import Image
from instances import container_wiring, machine_wiring, runs, wiring
from instances.command import argv_of, environment
from instances.requests import Port, RunRequest, Volume

CONFIG = ImageConfig(
    entrypoint=("/entry", "-x"), cmd=("serve",), env=("A=image", "B=image"), user="web", workdir="/srv"
)
IMAGE = Image("app:latest", "sha256:" + "1" * 64, CONFIG, ("layer",))


def container(**words: Any) -> ContainerSpec:
    request = RunRequest(**{"image": "app", "network": "none", **words})
    return container_wiring.container_spec(request, IMAGE, ("/lower",), "web", "a" * 64)


@pytest.mark.parametrize(
    ("command", "entrypoint", "argv"),
    [
        ((), None, ("/entry", "-x", "serve")),
        (("ls", "-l"), None, ("/entry", "-x", "ls", "-l")),
        ((), ("sh",), ("sh",)),
        (("-c", "id"), ("sh",), ("sh", "-c", "id")),
        (("id",), (), ("id",)),
    ],
)
def test_entrypoint_and_command_combine_as_in_docker(
    command: tuple[str, ...], entrypoint: tuple[str, ...] | None, argv: tuple[str, ...]
) -> None:
    assert argv_of(RunRequest("app", command, entrypoint=entrypoint), CONFIG) == argv


def test_an_image_without_a_command_says_what_to_do() -> None:
    with pytest.raises(Usage) as told:
        argv_of(RunRequest("app"), ImageConfig())
    assert "vmm run app COMMAND" in told.value.hint


def test_the_users_variables_win_over_the_images() -> None:
    made = environment(RunRequest("app", env=(("A", "mine"),), tty=True), CONFIG, "/bin", "host")
    assert made == ("PATH=/bin", "HOSTNAME=host", "TERM=xterm", "A=mine", "B=image")


def test_user_and_workdir_of_the_image_are_the_default() -> None:
    assert (container().user, container().cwd) == ("web", "/srv")
    assert (container(user="0:0", workdir="/").user, container(workdir="/").cwd) == ("0:0", "/")


def test_limits_count_as_docker_counts() -> None:
    limits = container(memory_bytes=1 << 20, memory_swap_bytes=3 << 20, cpus=0.5, pids_limit=9).limits
    assert (limits.memory_bytes, limits.swap_bytes, limits.cpus, limits.pids) == (1 << 20, 2 << 20, 0.5, 9)
    with pytest.raises(Usage):
        container(memory_swap_bytes=1 << 20)


def test_capabilities_drop_then_add() -> None:
    assert container(cap_drop=("ALL",), cap_add=("net_admin",)).capabilities == ("NET_ADMIN",)
    with pytest.raises(Usage, match="NOPE"):
        container(cap_add=("NOPE",))


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        ({"security_opt": ("seccomp=unconfined",)}, "seccomp", "unconfined"),
        ({"security_opt": ("no-new-privileges=false",)}, "no_new_privileges", False),
        ({"security_opt": ("systempaths=unconfined",)}, "masked", False),
        ({"pid": "host"}, "pid_namespace", "host"),
        ({"ipc": "host"}, "ipc_namespace", "host"),
        ({"uts": "host"}, "uts_namespace", "host"),
        ({"userns": "auto"}, "user_namespace", "auto"),
        ({"read_only": True}, "read_only", True),
        ({"init": True}, "init", True),
        ({"privileged": True}, "privileged", True),
        ({"shm_bytes": 4096}, "shm_bytes", 4096),
        ({"ulimits": ("nofile=5:7",)}, "ulimits", (("nofile", 5, 7),)),
        ({"sysctls": (("a", "b"),)}, "sysctls", (("a", "b"),)),
        ({"restart": "on-failure:3"}, "restart", "on-failure:3"),
        ({"stop_signal": "SIGINT"}, "stop_signal", "INT"),
        ({"hostname": "box"}, "hostname", "box"),
        ({"network": "host"}, "network", "host"),
        ({"rm": True}, "ephemeral", True),
        ({"tty": True}, "tty", True),
    ],
)
def test_a_flag_reaches_the_spec(words: dict[str, Any], field: str, value: object) -> None:
    assert getattr(container(**words), field) == value


@pytest.mark.parametrize(
    "words",
    [
        {"security_opt": ("apparmor=x",)},
        {"restart": "sometimes"},
        {"restart": "on-failure:x"},
        {"userns": "mine"},
        {"pid": "other"},
        {"ulimits": ("nofile",)},
        {"devices": ("sda",)},
        {"ports": (Port(80, 80),), "network": "none"},
        {"add_hosts": ("db",)},
    ],
)
def test_words_that_are_no_setting_are_told(words: dict[str, Any]) -> None:
    with pytest.raises(Usage):
        container(**words)


def test_named_volumes_and_folders_become_mounts(home: Path) -> None:
    mounts = container(volumes=(Volume("data", "/d"), Volume("/etc", "/e", True))).mounts
    assert [(one.kind, one.target, one.source, one.read_only) for one in mounts] == [
        ("volume", "/d", f"{home}/volumes/data/data", False),
        ("bind", "/e", "/etc", True),
    ]


def machine(home: Path, **words: Any) -> Any:
    request = RunRequest(**{"image": "app", "kind": "vm", **words})
    who = wiring.identity_of("0123456789abcdef" * 4, "box")
    return machine_wiring.outline(request, IMAGE, who)


def test_a_command_starts_on_the_quickest_rung_and_an_init_takes_over(home: Path) -> None:
    spec = machine(home)
    assert (spec.boot, spec.init) == ("microvm", None)
    assert spec.command.argv == ("/entry", "-x", "serve")
    assert (spec.command.user, spec.command.cwd) == ("web", "/srv")
    system = machine(home, entrypoint=(), command=("/sbin/init",))
    assert (system.boot, system.init) == ("direct", "/sbin/init")


def test_a_machines_flags_reach_its_spec(home: Path) -> None:
    spec = machine(
        home, driver="libvirt", accel="tcg", boot="direct", cpus=2.0, memory_bytes=128 << 20, append="quiet",
        ports=(Port(2222, 22),), hostname="host", network=None, autostart=True, kernel="/boot/k",
        entrypoint=(), command=("/sbin/init",),
    )  # fmt: skip
    assert (spec.driver, spec.accel, spec.boot, spec.cpus) == ("libvirt", "tcg", "direct", 2)
    assert (spec.memory_bytes, spec.append, spec.hostname, spec.autostart) == (
        128 << 20,
        "quiet",
        "host",
        True,
    )
    assert (spec.nics[0].forwards[0].host, spec.nics[0].forwards[0].guest) == (2222, 22)
    assert spec.kernel == "/boot/k"


def test_a_machine_has_whole_processors_and_its_own_network(home: Path) -> None:
    with pytest.raises(Unsupported):
        machine(home, cpus=0.5)
    with pytest.raises(Unsupported):
        machine(home, network="host")
    assert machine(home, network="none").nics == ()
    assert machine(home, network="lab").nics[0].network == "lab"


def test_a_share_needs_its_folder_and_for_a_user_the_kernel_that_knows_9p(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotFound):
        machine(home, volumes=(Volume(str(tmp_path / "none"), "/x"),))
    spec = machine(home, volumes=(Volume(str(tmp_path), "/x"),))
    assert spec.shares[0].target == "/x"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    spec = machine(home, volumes=(Volume(str(tmp_path), "/x"),))
    assert (spec.shares[0].kind, spec.kernel.rpartition("-")[2]) == ("virtiofs", "cloud")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    spec = machine(home, volumes=(Volume(str(tmp_path), "/x"),))
    assert (spec.shares[0].kind, spec.kernel.rpartition("-")[2]) == ("9p", "generic")


def test_words_for_cloud_init_need_an_init(home: Path) -> None:
    for words in ({"ssh_keys": ("k",)}, {"cloud_init": "f"}, {"packages": ("p",)}, {"ssh_user": "u"}):
        with pytest.raises(Unsupported, match="needs an init"):
            machine(home, **words)
        assert machine(home, entrypoint=(), command=("/sbin/init",), **words).seed.endswith("seed.iso")


@pytest.mark.parametrize("kind", ["ct", "vm"])
def test_a_dry_run_makes_nothing(home: Path, kind: str) -> None:
    text = runs.plan(RunRequest("tiny", ("echo", "hi"), kind=kind, network="none", accel=None))
    assert {"ct": "pivot_root", "vm": "qemu-system"}[kind] in text
    assert not home.exists()


@pytest.mark.parametrize("kind", ["--ct", "--vm"])
def test_a_dry_run_needs_neither_root_nor_kvm(home: Path, kind: str) -> None:
    need("root", "user")
    # The interpreter may lie where only root can read: import everything first, then drop every right.
    program = (
        "import os, sys; from cli.main import main; words = sys.argv[1:];"
        "assert main(words) == 0; print('--');"
        "os.setgid(65534); os.setuid(65534); sys.exit(main(words))"
    )
    words = ["run", kind, "--network", "none", "--dry-run", "tiny", "echo", "hi"]
    env = {**os.environ, "VMM_HOME": "/nonexistent/home"}
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        capture_output=True,
        text=True,
        env=env,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {"--ct": "pivot_root", "--vm": "qemu-system"}[kind] in done.stdout.partition("--\n")[2]


def test_an_unknown_image_is_told_in_a_plan_too(home: Path) -> None:
    with pytest.raises(Failure):
        runs.plan(RunRequest("nosuch", ("true",)))
