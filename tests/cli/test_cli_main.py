"""The front door: help, unknown words, exit statuses, and how little it loads."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import sysconfig
from importlib import import_module
from pathlib import Path

import pytest
from capabilities import need
from commandline import CommandLine

from cli import inside, template
from cli import main as front
from host.errors import NotFound, Usage
from host.paths import guest_helper

ALL = [(name, module) for commands in front.GROUPS.values() for name, (module, _) in commands.items()]
# Each of these costs more than a whole container start.
FORBIDDEN = [
    "asyncio",
    "rich",
    "paramiko",
    "pyroute2",
    "numpy",
    "scipy",
    "yaml",
    "jinja2",
    "matplotlib",
    "subprocess",
    "socket",
    "ssl",
    "hashlib",
    "resource",
    "http",
    "email",
    "urllib.request",
    "logging",
    "tempfile",
    "shutil",
    "libvirt",
    "importlib.metadata",
    "qemu",
    "xml",
    "pycdlib",
    "urllib3",
    "concurrent.futures",
    "multiprocessing",
]


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = front.main(words)
    out, err = capsys.readouterr()
    return status, out, err


def test_help_names_every_command_without_loading_one(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = said(capsys, "--help")
    assert status == 0
    assert all(f"  {name} " in out for name, _ in ALL)


def test_no_words_at_all_are_a_question_for_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys)[0] == 0


def test_an_unknown_command_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = said(capsys, "lss")
    assert status == 2
    assert "did you mean `vmm ls`?" in err


def test_the_version_is_the_installed_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "--version")[1] == f"vmm {front.version()}\n"


@pytest.mark.parametrize(("name", "module"), ALL)
def test_every_command_tells_its_help(name: str, module: str, capsys: pytest.CaptureFixture[str]) -> None:
    import_module(module)
    status, out, _ = said(capsys, name, "--help")
    assert status == 0
    assert "usage: vmm" in out
    assert name in out


@pytest.mark.parametrize("command", ["run", "create", "exec"])
def test_our_errors_are_125_where_the_commands_own_status_counts(
    command: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(capsys, command, "--no-such-flag")[0] == 125
    assert said(capsys, command, "nosuch", "true")[0] == 125


def test_elsewhere_usage_is_2_and_failure_1(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "ls", "--no-such-flag")[0] == 2
    assert said(capsys, "stop")[0] == 2
    status, _, err = said(capsys, "inspect", "nosuch")
    assert status == 1
    assert err == "vmm inspect: no instance 'nosuch'\nhint: vmm ls -a lists them\n"


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        (NotFound("x"), 1),
        (Usage("x"), 2),
        (KeyboardInterrupt(), 130),
        (OSError(28, "No space left on device"), 1),
    ],
)
def test_what_a_command_raises_becomes_a_status(
    raised: BaseException, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> int:
        raise raised

    monkeypatch.setattr("cli.listing.main", fail)
    assert front.main(["ls"]) == status
    assert "Traceback" not in capsys.readouterr().err


def test_a_fault_of_ours_asks_for_a_report_and_shows_its_traceback_only_when_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> int:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("cli.listing.main", fail)
    assert front.main(["ls"]) == 1
    assert "VMM_DEBUG=1" in capsys.readouterr().err
    monkeypatch.setenv("VMM_DEBUG", "1")
    front.main(["ls"])
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["--help", "run --dry-run tiny true", "df", "ls -a", "df --json"])
def test_a_reader_that_goes_away_is_no_error(home: Path, words: str) -> None:
    """The reader is gone before the first word: what a buffer holds is written by the last flush."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "cli.main", *words.split()]
    env = {"VMM_HOME": str(home), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, env=env, check=False)
    os.close(write)
    assert (done.stderr, done.returncode) == ("", 141)


def test_a_closed_input_has_ended_and_no_descriptor_of_ours_takes_its_place() -> None:
    program = (
        "import os, cli.main as front\n"
        "def main():\n"
        "    print(*(os.readlink(f'/proc/self/fd/{n}') for n in range(3)))\n"
        "    return 0\n"
        "front.main = main\n"
        "front.entry()\n"
    )
    command = f'{sys.executable} -c "$PROGRAM" <&- 2>&-'
    env = {**os.environ, "PROGRAM": program}
    done = subprocess.run(command, shell=True, stdout=subprocess.PIPE, text=True, env=env, check=False)
    stdin, _, stderr = done.stdout.splitlines()[-1].split()
    assert (stdin, stderr) == ("/dev/null", "/dev/null")


@pytest.mark.parametrize(
    ("where", "status", "said"), [("> /dev/full", 1, "No space left on device"), (">&-", 0, "")]
)
@pytest.mark.parametrize("words", ["ls -a", "df"])
def test_words_that_nobody_can_take(home: Path, words: str, where: str, status: int, said: str) -> None:
    """`ls` leaves without the interpreter's own last flush."""
    env = {"VMM_HOME": str(home), "PATH": "/usr/bin:/bin"}
    command = f"{sys.executable} -m cli.main {words} {where}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == status
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words", [["ls", "-a"], ["run", "--ct", "--network", "none", "tiny", "true"], ["exec", "a", "true"]]
)
def test_the_hot_path_loads_little(words: list[str], home: Path) -> None:
    """The second time: the first makes the image and the seccomp program, which may take what it needs."""
    program = "import sys; from cli.main import main; main(sys.argv[1:]); print(*sys.modules)"
    if words[0] == "run":
        need("root")  # an ordinary user's id map is written by newuidmap, a program
    env = {"VMM_HOME": str(home), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", program, *words], capture_output=True, text=True, env=env, check=False
        )
    loaded = set(done.stdout.splitlines()[-1].split())
    assert sorted(loaded & set(FORBIDDEN)) == []


@pytest.mark.parametrize(
    ("words", "without"),
    [
        (["run", "--ct", "--network", "none", "tiny", "true"], {"typing", "ctypes"}),
        (["exec", "a", "true"], {"typing", "ctypes", "argparse", "gettext", "locale"}),
    ],
)
def test_the_installed_command_loads_less_still(words: list[str], without: set[str], home: Path) -> None:
    """Without `site`, as bin/vmm starts: typing compiles annotations, ctypes looks for a library."""
    program = (
        f"import sys; sys.path += {[str(Path(__file__).parents[2]), sysconfig.get_path('purelib')]}\n"
        f"from cli.main import main\nmain({words!r}); print(*sys.modules)"
    )
    if words[0] == "run":
        need("root")
    env = {"VMM_HOME": str(home), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "VMM_GUEST": str(guest_helper())}
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-IS", "-c", program], capture_output=True, text=True, env=env, check=False
        )
    assert without & set(done.stdout.splitlines()[-1].split()) == set(), done.stderr


def test_an_exec_in_a_running_container_loads_least(home: Path) -> None:
    """re compiles, enum and signal make classes, json does both: a fifth of the command."""
    need("root", "cgroup", "overlay", "guest-helper", "busybox")
    vmm = CommandLine(home)
    vmm.ok("run", "-d", "--ct", "--network", "none", "--name", "a", "tiny", "sleep", "600")
    program = (
        f"import sys; sys.path += {[str(Path(__file__).parents[2]), sysconfig.get_path('purelib')]}\n"
        "from cli import main as m; m._load_pathlib()\n"
        "status = m.main(['exec', 'a', 'sh', '-c', 'exit 7']); print(status, *sys.modules)"
    )
    words, env = [sys.executable, "-IS", "-c", program], {**vmm.env, "VMM_GUEST": str(guest_helper())}
    status, *loaded = subprocess.run(
        words, capture_output=True, text=True, env=env, check=True
    ).stdout.split()
    assert status == "7"
    assert "containers.joining" in loaded
    unwanted = {"re", "enum", "json", "signal", "fnmatch", "warnings", "argparse", "typing", "ctypes"}
    assert (unwanted | set(FORBIDDEN)) & set(loaded) == set()


def test_pathlib_comes_without_what_only_its_rarer_methods_need(tmp_path: Path) -> None:
    (tmp_path / "b1").touch()
    program = (
        f"import sys; sys.path.append({str(Path(__file__).parents[2])!r})\n"
        "from cli import main; main._load_pathlib(); from pathlib import Path\n"
        "print({'ipaddress', 're', 'ntpath', 'warnings'} & {*sys.modules}, Path('/a b').as_uri())\n"
        f"print([one.name for one in Path({str(tmp_path)!r}).glob('b*')], Path('/b1').match('b?'))\n"
        "import urllib.parse as u, re; print(u.quote('/ '), re.sub('a', 'b', 'a'))"
    )
    words = [sys.executable, "-IS", "-c", program]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert said.split() == ["set()", "file:///a%20b", "['b1']", "True", "/%20", "b"]


@pytest.mark.parametrize(
    "words",
    [
        "a true",
        "-it a sh",
        "-i -t -d -u 0:0 -w /tmp -e A=1 -e B a sh -c x",
        "-ti a ls -l -- --help",
        "-w / a env A=1 -e",
    ],
)
def test_a_plain_exec_means_what_argparse_makes_of_it(words: str) -> None:
    found, parser = inside.plain("exec", words.split()), argparse.ArgumentParser(allow_abbrev=False)
    assert found is not None
    parser.set_defaults(command="exec")
    inside.configure(parser)
    expected = parser.parse_args(words.split())
    assert {name: getattr(found, name) for name in vars(expected)} == vars(expected)


@pytest.mark.parametrize(
    "words",
    ["", "a", "--help", "-h", "-x a true", "-u", "-u -i a true", "--privileged a true", "-e", "-- a true",
     "a -- true", "a -l", "- a true", "-iu 0 a true", "--detach-keys=x a sh"],
)  # fmt: skip
def test_all_other_words_of_exec_are_argparses(words: str) -> None:
    assert inside.plain("exec", words.split()) is None
    assert inside.plain("shell", ["a"]) is None


def test_an_ordinary_users_path_is_enough(home: Path) -> None:
    """Debian's login gives a user no sbin, where mke2fs is: /etc/login.defs, ENV_PATH."""
    need("root")  # set-up has put e2fsprogs there
    env = {**os.environ, "PATH": "/usr/local/bin:/usr/bin:/bin", "VMM_HOME": str(home)}
    words = [sys.executable, "-m", "cli.main", "doctor", "--json"]
    told = json.loads(subprocess.run(words, capture_output=True, env=env, check=True).stdout)
    mke2fs = next(one for one in told["capabilities"] if one["name"] == "mke2fs")
    assert mke2fs["works"], mke2fs


@pytest.mark.parametrize(
    ("theirs", "ours"), [("images", "image ls"), ("unpause", "resume"), ("pull", "image pull")]
)
def test_docker_s_words_lead_to_ours(theirs: str, ours: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = said(capsys, theirs, "x")
    assert status == 2
    assert f"here it is `vmm {ours}`" in err
    assert said(capsys, *ours.split(), "--help")[0] == 0


@pytest.mark.parametrize(
    "words",
    ["t tiny --memory 1G -- sh -c x", "--memory 1G t tiny -- sh -c x", "t --memory 1G tiny sh -- -c x"],
)
def test_a_template_s_command_may_follow_the_options(words: str) -> None:
    """argparse takes no more words once an option came behind IMAGE."""
    parser = argparse.ArgumentParser()
    template.configure(parser)
    args = parser.parse_args(["create", *words.split()])
    assert (args.name, args.image, args.memory) == ("t", "tiny", "1G")
    assert args.arguments == ["sh", "-c", "x"]
    assert parser.parse_args(["rm", "a", "--", "b"]).names == ["a", "b"]
