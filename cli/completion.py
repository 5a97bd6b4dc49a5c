"""vmm completion: the completion script of a shell, from the very parsers that read the words."""

from __future__ import annotations

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Which shell."""
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="whose completion to print")


def main(args: argparse.Namespace) -> int:
    """Print the script: `vmm completion bash > /etc/bash_completion.d/vmm`."""
    if args.shell == "fish":
        print(_fish(_whole()))
        return 0
    import shtab

    print(shtab.complete(_whole(), args.shell))
    return 0


def _whole() -> argparse.ArgumentParser:
    """One parser of all commands that this build has."""
    from importlib import import_module

    from cli.main import GROUPS

    whole = argparse.ArgumentParser(prog="vmm")
    words = whole.add_subparsers()
    for commands in GROUPS.values():
        for name, (module, line) in commands.items():
            try:
                command = import_module(module)
            except ModuleNotFoundError:
                continue
            parser = words.add_parser(name, help=line)
            parser.set_defaults(command=name)
            command.configure(parser)
    return whole


def _fish(whole: argparse.ArgumentParser) -> str:
    """fish reads one `complete` line a word and flag; shtab writes none for it."""
    lines = ["complete -c vmm -f"]
    for name, parser in _subparsers(whole).items():
        lines.append(f"complete -c vmm -n __fish_use_subcommand -a {name}")
        for action in parser._actions:
            lines += _fish_flags(name, action)
    return "\n".join(lines)


def _fish_flags(name: str, action: argparse.Action) -> list[str]:
    said = (action.help or "").replace("'", "\\'")
    only = f"complete -c vmm -n '__fish_seen_subcommand_from {name}'"
    if action.option_strings:
        given = action.option_strings
        words = (f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in given)
        flags = " ".join(words)
        return [f"{only} {flags} -d '{said}'"]
    return [f"{only} -a '{word}'" for word in action.choices or ()]


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}
