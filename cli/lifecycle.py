"""vmm start stop restart kill pause resume wait rename rm: one word done to one or more instances."""

from __future__ import annotations

import argparse
import sys

from host import signals
from host.errors import Failure, Usage
from host.typing import TYPE_CHECKING
from instances import kinds, registry, runs

if TYPE_CHECKING:
    from collections.abc import Callable

    from instances.registry import Instance

_STOP_S = 10.0


def configure(parser: argparse.ArgumentParser) -> None:
    """The flags of each word."""
    command = parser.get_default("command")
    if command in ("stop", "restart"):
        help_time = "seconds until it is killed (10)"
        parser.add_argument("-t", "--time", metavar="S", type=float, default=_STOP_S, help=help_time)
    if command == "kill":
        parser.add_argument("-s", "--signal", default="KILL", help="a signal's name or number (KILL)")
    if command == "start":
        parser.add_argument("-a", "--attach", action="store_true", help="stay, and pass its output on")
        parser.add_argument("-i", "--interactive", action="store_true", help="pass our stdin on, too")
    if command == "rm":
        parser.add_argument("-f", "--force", action="store_true", help="end it first, if it runs")
        parser.add_argument("-v", "--volumes", action="store_true", help="its anonymous volumes, too")
    if command == "wait":
        parser.add_argument(
            "--for",
            dest="condition",
            metavar="STATE",
            help="exited (default), running, booting, ssh-ready, cloud-init-done, healthy",
        )
        parser.add_argument("--timeout", metavar="S", type=float, help="give up after so many seconds")
    if command in ("rm", "stop", "start", "kill", "restart", "pause", "resume"):
        parser.add_argument("--all", action="store_true", help="every instance that this can be done to")
    if command == "rename":
        parser.add_argument("names", metavar="NAME", nargs=2, help="the instance, and its new name")
    else:
        parser.add_argument(
            "names", metavar="NAME", nargs="*", help="an instance's name or the start of its id"
        )


def main(args: argparse.Namespace) -> int:
    """Do the word to every instance; one that fails does not keep the others from it."""
    if args.command == "rename":
        runs.rename(registry.find(args.names[0]), args.names[1])
        return 0
    if not args.names and not getattr(args, "all", False):
        raise Usage(f"vmm {args.command} needs the name of an instance", hint="vmm ls -a lists them")
    if getattr(args, "attach", False):
        return _start_attached(args)
    return _each(args, _WORDS[args.command])


def _each(args: argparse.Namespace, word: Callable[[Instance, argparse.Namespace], str | None]) -> int:
    failed = 0
    for name in args.names or [row.instance.name for row in runs.listing() if _fits(args.command, row.state)]:
        try:
            said = word(registry.find(name), args)
        except Failure as error:
            sys.stderr.write(f"vmm {args.command}: {error.told()}\n")
            failed = max(failed, error.exit_status)
            continue
        if said is not None:
            print(said, flush=True)
    return failed


def _fits(command: str, state: str) -> bool:
    runs_now, restarts = state in kinds.RUNNING, state == kinds.RESTARTING
    fits = {"rm": True, "start": not runs_now, "resume": state == "paused", "stop": runs_now or restarts}
    return fits.get(command, runs_now)


def _start(instance: Instance, args: argparse.Namespace) -> str:
    runs.start(instance)
    return instance.name


def _stop(instance: Instance, args: argparse.Namespace) -> str:
    if forced := runs.stop(instance, _seconds(args.time)):
        sys.stderr.write(f"vmm stop: {forced}\n")
    return instance.name


def _restart(instance: Instance, args: argparse.Namespace) -> str:
    runs.restart(instance, _seconds(args.time))
    return instance.name


def _kill(instance: Instance, args: argparse.Namespace) -> str:
    runs.kill(instance, signals.number(args.signal))
    return instance.name


def _pause(instance: Instance, args: argparse.Namespace) -> str:
    runs.pause(instance)
    return instance.name


def _resume(instance: Instance, args: argparse.Namespace) -> str:
    runs.resume(instance)
    return instance.name


def _wait(instance: Instance, args: argparse.Namespace) -> str | None:
    if args.condition in (None, "exited"):
        return str(kinds.backend(instance).wait(args.timeout))
    runs.wait_for(instance, args.condition, args.timeout)
    return None


def _rm(instance: Instance, args: argparse.Namespace) -> str:
    runs.remove(instance, args.force)
    if args.volumes:
        from instances import volumes

        volumes.remove_anonymous(instance)
    return instance.name


_WORDS = {
    "start": _start,
    "stop": _stop,
    "restart": _restart,
    "kill": _kill,
    "pause": _pause,
    "resume": _resume,
    "wait": _wait,
    "rm": _rm,
}


def _seconds(time_s: float) -> float:
    if not 0 <= time_s < 1e6:
        raise Usage("cannot wait", f"{time_s} s", "not a time", "for example --time 10")
    return time_s


def _start_attached(args: argparse.Namespace) -> int:
    from host.stdio import Stdio

    if len(args.names) != 1:
        raise Usage("cannot attach to more than one instance", hint="leave -a out")
    return runs.start_attached(registry.find(args.names[0]), Stdio(interactive=args.interactive))
