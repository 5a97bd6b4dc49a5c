"""vmm exec shell attach: a command or a person goes inside."""

from __future__ import annotations

import os

from cli import keys
from host.errors import Unsupported, Usage
from host.exec_request import ExecRequest
from host.stdio import Stdio
from host.typing import TYPE_CHECKING
from instances import registry, runs

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

_FLAGS = {"i": "interactive", "t": "tty", "d": "detach"}
_VALUES = {"-e": "env", "-w": "workdir", "-u": "user"}
_REMAINDER = "..."  # argparse.REMAINDER


def configure(parser: argparse.ArgumentParser) -> None:
    """The flags of each word."""
    command, add = parser.get_default("command"), parser.add_argument
    if command in ("attach", "exec"):
        add("--detach-keys", metavar="KEYS", help="keys that leave the terminal (ctrl-p,ctrl-q)")
    if command == "attach":
        add("--no-stdin", action="store_true", help="only look on")
    if command == "exec":
        add("-i", "--interactive", action="store_true", help="pass our stdin on")
        add("-t", "--tty", action="store_true", help="give the command a terminal")
        add("-d", "--detach", action="store_true", help="let it run and come back at once")
        add("-e", "--env", metavar="K=V", action="append", default=[], help="a variable")
        add("-w", "--workdir", metavar="DIR", default="", help="where the command runs")
        add("--privileged", action="store_true", help="with every capability")
    if command in ("exec", "shell"):
        add("-u", "--user", metavar="USER[:GROUP]", default="", help="whom it runs as")
    add("name", metavar="NAME", help="an instance's name or the start of its id")
    if command == "exec":
        add("arguments", metavar="COMMAND", nargs=_REMAINDER, help="the command and its words")


class Plain:
    """What argparse would make of a plain `exec`."""

    command, name, workdir, user, detach_keys = "exec", "", "", "", None
    interactive = tty = detach = privileged = no_stdin = False

    def __init__(self) -> None:
        self.env: list[str] = []
        self.arguments: list[str] = []


def plain(command: str, words: Sequence[str]) -> Plain | None:
    """`exec [-itd] [-e K=V] [-w DIR] [-u USER] NAME COMMAND...`, or None for argparse to judge.

    Loading argparse and making its parser takes longer than the container takes to run the command.
    """
    found, rest = Plain(), iter(words)
    for word in rest if command == "exec" else ():
        if not word.startswith("-"):
            found.name, found.arguments = word, [*rest]
            return found if found.arguments and not found.arguments[0].startswith("-") else None
        if word in _VALUES:
            value = next(rest, "-")
            if value.startswith("-"):
                return None
            _set(found, _VALUES[word], value)
        elif len(word) > 1 and set(word[1:]) <= _FLAGS.keys():
            for letter in word[1:]:
                setattr(found, _FLAGS[letter], True)
        else:
            return None
    return None


def _set(found: Plain, name: str, value: str) -> None:
    if name == "env":
        found.env.append(value)
    else:
        setattr(found, name, value)


def main(args: argparse.Namespace | Plain) -> int:
    """Go inside; the command's own status."""
    instance = registry.find(args.name)
    if args.command == "exec":
        return _exec(instance, args)
    if args.command == "shell":
        return runs.shell(instance, args.user, Stdio(tty=os.isatty(0), interactive=True))
    stdio = Stdio(interactive=not args.no_stdin, tty=os.isatty(0))
    return runs.attach(instance, stdio, keys.parse(args.detach_keys))


def _exec(instance: registry.Instance, args: argparse.Namespace | Plain) -> int:
    if not args.arguments:
        raise Usage("nothing to run", hint=f"vmm exec {args.name} COMMAND, or vmm shell {args.name}")
    if args.detach_keys is not None:
        why = "a command of exec ends with its terminal"
        raise Unsupported("cannot use --detach-keys", why=why, hint="vmm exec -d lets one run on")
    if args.tty and args.interactive and not os.isatty(0):
        raise Usage("cannot use -t", why="stdin is not a terminal", hint="leave -t out")
    wanted = ExecRequest(
        argv=tuple(args.arguments),
        env=_variables(args.env),
        cwd=args.workdir,
        user=args.user,
        tty=args.tty,
        interactive=args.interactive,
        privileged=args.privileged,
    )
    if args.detach:
        return runs.execute_detached(instance, wanted)
    return runs.execute(instance, wanted, Stdio(tty=args.tty, interactive=args.interactive))


def _variables(words: list[str]) -> tuple[str, ...]:
    if not words:
        return ()  # and leave alone what only `run` needs
    from instances.requests import parse_env

    return tuple(f"{key}={value}" for key, value in parse_env(words, dict(os.environ)))
