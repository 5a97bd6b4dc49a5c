"""The front door: finds the command's module, runs it, and tells every failure in the same voice."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from typing import NoReturn, Protocol

    class Command(Protocol):
        def configure(self, parser: argparse.ArgumentParser) -> None: ...
        def main(self, args: argparse.Namespace) -> int: ...


# command -> (module, one line for --help). The groups are the order of --help.
GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "Start": {
        "run": ("cli.run", "make an instance of an image and run a command in it"),
        "create": ("cli.run", "make an instance without starting it"),
        "start": ("cli.lifecycle", "start instances that stand still"),
        "clone": ("cli.clone", "make an instance from another one, alive or not"),
    },
    "Change": {
        "stop": ("cli.lifecycle", "ask instances to end, then make them"),
        "restart": ("cli.lifecycle", "stop and start again"),
        "kill": ("cli.lifecycle", "send a signal to the command, or pull a machine's plug"),
        "pause": ("cli.lifecycle", "freeze instances"),
        "resume": ("cli.lifecycle", "let paused instances go on"),
        "wait": ("cli.lifecycle", "wait until instances have ended, or a machine is ready"),
        "rename": ("cli.lifecycle", "give an instance another name"),
        "update": ("cli.update", "change memory and processors of an instance"),
        "reset": ("cli.machine", "press a machine's reset button"),
        "rm": ("cli.lifecycle", "remove instances"),
    },
    "Look": {
        "ls": ("cli.listing", "list instances of both kinds"),
        "inspect": ("cli.looking", "all that is known of an instance"),
        "explain": ("cli.looking", "what an instance is made of, and the commands that would do it by hand"),
        "stats": ("cli.stats", "processor, memory and input/output, live"),
        "top": ("cli.looking", "the processes inside"),
        "events": ("cli.events", "what happens to instances, as it happens"),
        "logs": ("cli.looking", "what an instance has said"),
        "port": ("cli.looking", "published ports"),
        "df": ("cli.space", "what takes disk space"),
    },
    "Go inside": {
        "exec": ("cli.inside", "run one more command in an instance"),
        "shell": ("cli.inside", "a shell in an instance"),
        "attach": ("cli.inside", "join the terminal of a running instance"),
        "console": ("cli.console", "the serial console of a machine"),
        "screenshot": ("cli.screenshot", "a picture of a machine's screen"),
        "cp": ("cli.copying", "copy files in and out"),
        "diff": ("cli.commit", "files that a container has changed"),
    },
    "Keep": {
        "commit": ("cli.commit", "make an image of a container"),
        "export": ("cli.commit", "write an instance to one file"),
        "import": ("cli.importing", "make a machine of the file that export wrote"),
        "snapshot": ("cli.snapshot", "states of an instance to return to"),
        "template": ("cli.template", "frozen machines from which clones start at once"),
        "migrate": ("cli.migrate", "move a running machine to a fresh QEMU"),
        "compact": ("cli.machine", "give a machine's freed disk space back"),
    },
    "Set up": {
        "image": ("cli.image", "images: list, build, pull, push, convert ..."),
        "network": ("cli.network", "networks that both kinds join"),
        "volume": ("cli.volume", "storage that outlives instances"),
        "prune": ("cli.space", "remove what nothing uses"),
        "doctor": ("cli.doctor", "what this host can do, why not, and what mends it"),
        "completion": ("cli.completion", "completion for bash, zsh or fish"),
    },
    "Labs": {
        "plan": ("cli.lab", "what `up` would do for a lab.yaml"),
        "up": ("cli.lab", "bring the instances of a lab.yaml up"),
        "down": ("cli.lab", "take them down"),
        "ps": ("cli.lab", "the state of the instances of a lab.yaml"),
    },
    "Measure": {
        "bench": ("cli.bench", "measure instances of both kinds side by side"),
        "claims": ("cli.claims", "put what textbooks say to the test"),
        "race": ("cli.race", "start one image as everything at once"),
        "report": ("cli.report", "make pages from results"),
    },
}

# docker's contract: these give the command's own status, so every error of ours is 125.
STATUS_OF_OURS = {"run": 125, "create": 125, "exec": 125}
# Taking the interpreter down costs 6 ms, a tenth of `run`.
IN_A_HURRY = frozenset({"run", "exec", "create", "start", "stop", "kill", "rm", "ls", "wait"})


class Terminated(BaseException):
    """SIGTERM or SIGHUP reached us: what was acquired is released on the way out, the status is 128 + n."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_status = 128 + number


def entry() -> NoReturn:
    """The process `vmm`: run its command line and leave; some are in a hurry."""
    import gc

    gc.set_threshold(50_000)  # what a command imports lives to its end: looking through it finds nothing
    _take_low_descriptors()
    _load_pathlib()
    status = _flushed(main())
    if sys.argv[1:2] and sys.argv[1] in IN_A_HURRY and not _has_threads():
        os._exit(status)
    sys.exit(status)


def _take_low_descriptors() -> None:
    """Where we were started with 0, 1 or 2 closed (`<&-`), no socket of ours may become a command's stdin.

    /dev/null to read from: an input that has ended, and words that nobody takes are an error as before.
    """
    while (fd := os.open(os.devnull, os.O_RDONLY)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  (as long as we live)


def _has_threads() -> bool:
    """Whether others than ours live, or something is to be done at the end: those are taken down in order."""
    import atexit

    threading = sys.modules.get("threading")
    return bool(atexit._ncallbacks() or (threading and threading.active_count() > 1))


def _load_pathlib() -> None:
    """Without what only glob, as_uri and Windows need, 6 ms of every command; later versions are leaner."""
    if sys.version_info >= (3, 12) or "pathlib" in sys.modules:
        return
    later = {name: _Later(name) for name in _RARELY_NEEDED if name not in sys.modules}
    if "urllib.parse" in later:
        later["urllib.parse"].__dict__["quote_from_bytes"] = _quote_from_bytes
    sys.modules.update(later)
    try:
        import pathlib  # noqa: F401
    finally:
        for name in later:
            del sys.modules[name]


_RARELY_NEEDED = ("re", "fnmatch", "ntpath", "warnings", "urllib.parse")


class _Later(type(sys)):  # type: ignore[misc]
    """A module that is loaded once something of it is asked for."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):  # what the import itself asks
            raise AttributeError(name)
        real = str(self.__name__)
        __import__(real)
        return getattr(sys.modules[real], name)


def _quote_from_bytes(data: bytes) -> str:
    from urllib.parse import quote_from_bytes

    return quote_from_bytes(data)


def _flushed(status: int) -> int:
    """Write out what was said; the status, or that of words which nobody takes."""
    try:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except BrokenPipeError:
        _drop_words()
        return 141
    except OSError as error:
        _drop_words()
        return status or _told(" ".join(sys.argv[1:2]), error)
    return status


def _drop_words() -> None:
    """Keep the interpreter's own last flush from complaining of words that nobody takes."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status; never raises."""
    words = list(sys.argv[1:] if argv is None else argv)
    command = words[0] if words else "--help"
    try:
        if argv is None:  # we are the whole process
            _end_in_order()
            _see_sbin()
        return _dispatch(command, words[1:])
    except Terminated as ended:
        return ended.exit_status
    except SystemExit as leave:  # argparse: --help, or a usage error that it has told already
        status = leave.code if isinstance(leave.code, int) else 2
        return STATUS_OF_OURS.get(command, status) if status else 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _drop_words()  # the reader went away (`vmm ls | head`)
        return 141
    except Exception as error:
        return _told(command, error)


def _dispatch(command: str, words: list[str]) -> int:
    if command in ("-h", "--help", "help"):
        return _help()
    if command in ("-V", "-v", "--version", "version"):
        print(f"vmm {version()}")
        return 0
    module = _module(command)
    plain = getattr(module, "plain", None)  # the forms that are understood without argparse
    args = plain(command, words) if plain else None
    if args is not None:
        return module.main(args)
    import argparse

    # argparse makes a formatter for each argument; without a width it asks shutil, which loads compressors
    width = _columns()
    parser = argparse.ArgumentParser(
        prog=f"vmm {command}",
        description=_line(command),
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=30, width=width),
    )
    parser.set_defaults(command=command)
    module.configure(parser)
    return module.main(parser.parse_args(words))


def _columns() -> int:
    try:
        return int(os.environ.get("COLUMNS") or os.get_terminal_size(1).columns) - 2
    except (OSError, ValueError):
        return 98


def _module(command: str) -> Command:
    for commands in GROUPS.values():
        if command in commands:
            try:
                __import__(commands[command][0])  # importlib is one module more
                found: Command = sys.modules[commands[command][0]]
                return found
            except ModuleNotFoundError as error:
                if error.name != commands[command][0]:
                    raise
                from host.errors import Unsupported

                raise Unsupported(f"cannot run vmm {command}", why="this build does not have it") from None
    from cli import docker_words
    from host.errors import Usage

    known = [name for commands in GROUPS.values() for name in commands]
    raise Usage("no command", repr(command), hint=docker_words.hint(command, known))


def _line(command: str) -> str:
    line = next(commands[command][1] for commands in GROUPS.values() if command in commands)
    return line[0].upper() + line[1:] + "."


def _help() -> int:
    print("vmm: virtual machines and containers from the same image, and what each costs\n")
    print("usage: vmm COMMAND [options]        vmm COMMAND --help        vmm --version")
    for group, commands in GROUPS.items():
        print(f"\n{group}")
        for name, (_, line) in commands.items():
            print(f"  {name:<11} {line}")
    return 0


def version() -> str:
    """The installed version of the project."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("vmm-lab")
    except PackageNotFoundError:
        return "unknown (not installed)"


def _told(command: str, error: Exception) -> int:
    from host.errors import Failure, from_os_error

    if isinstance(error, OSError) and error.errno is not None and not os.environ.get("VMM_DEBUG"):
        # The system refused something that nobody retold: its own words are better than a traceback.
        error = from_os_error(f"cannot finish vmm {command}", error)
    if isinstance(error, Failure):
        sys.stderr.write(f"vmm {command}: {error.told()}\n")
        if os.environ.get("VMM_DEBUG"):
            _traceback()
        # 126 and 127 speak of the command inside: they are its status, not ours
        ours = STATUS_OF_OURS.get(command, error.exit_status)
        return error.exit_status if error.exit_status in (126, 127) else ours
    if os.environ.get("VMM_DEBUG"):
        _traceback()
    sys.stderr.write(
        f"vmm {command}: this is a fault of vmm itself: {type(error).__name__}: {error}\n"
        "hint: run it again with VMM_DEBUG=1 and report what it prints\n"
    )
    return STATUS_OF_OURS.get(command, 1)


def _traceback() -> None:
    import traceback

    traceback.print_exc()


def _terminate(number: int, _frame: object) -> None:
    raise Terminated(number)


def _see_sbin() -> None:
    """Debian keeps mke2fs, nft and dnsmasq where an ordinary user's PATH does not look."""
    have = os.environ.get("PATH", os.defpath).split(":")
    os.environ["PATH"] = ":".join(have + [one for one in ("/usr/sbin", "/sbin") if one not in have])


def _end_in_order() -> None:
    """A signal that ends us lets us clean up first; what nohup ignores stays ignored."""
    from host import rawsignal as signal

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _terminate)


if __name__ == "__main__":
    entry()
