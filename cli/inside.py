"""vmm exec shell attach: a command or a person goes inside."""

from __future__ import annotations

import argparse
import os

from cli import keys
from host.errors import Usage
from host.exec_request import ExecRequest
from host.stdio import Stdio
from instances import registry, runs


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
        add("arguments", metavar="COMMAND", nargs=argparse.REMAINDER, help="the command and its words")


def main(args: argparse.Namespace) -> int:
    """Go inside; the command's own status."""
    instance = registry.find(args.name)
    if args.command == "exec":
        return _exec(instance, args)
    if args.command == "shell":
        return runs.shell(instance, args.user, Stdio(tty=os.isatty(0), interactive=True))
    stdio = Stdio(interactive=not args.no_stdin, tty=os.isatty(0))
    return runs.attach(instance, stdio, keys.parse(args.detach_keys))


def _exec(instance: registry.Instance, args: argparse.Namespace) -> int:
    if not args.arguments:
        raise Usage("nothing to run", hint=f"vmm exec {args.name} COMMAND, or vmm shell {args.name}")
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
