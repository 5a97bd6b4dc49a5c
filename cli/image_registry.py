"""vmm image pull, push, login, logout, search: images in registries."""

from __future__ import annotations

import argparse
import fnmatch
import getpass
import sys
from pathlib import Path
from typing import Any

from cli import image_build, table
from host import paths
from host.errors import Usage
from images.store import Store


def configure(subs: Any) -> None:
    """The flags of the five."""
    pull = _verb(subs, "pull", _pull, "fetch an image from a registry: only what is not here moves")
    pull.add_argument("name", metavar="HOST[:PORT]/NAME[:TAG][@DIGEST]")
    pull.add_argument("--arch", default="", help="another architecture than this host's")
    pull.add_argument("-q", "--quiet", action="store_true", help="the digest only")
    push = _verb(subs, "push", _push, "bring an image to a registry: only what it lacks moves")
    push.add_argument("name", metavar="IMAGE")
    push.add_argument(
        "target", metavar="HOST[:PORT]/NAME[:TAG]", nargs="?", default="", help="else IMAGE itself"
    )
    push.add_argument("-q", "--quiet", action="store_true", help="no progress")
    login = _verb(subs, "login", _login, "check and remember who you are to a registry")
    login.add_argument("host", metavar="HOST[:PORT]")
    login.add_argument("-u", "--username", help="else it is asked for")
    login.add_argument("-p", "--password", help="visible to others in ps: better --password-stdin")
    login.add_argument("--password-stdin", action="store_true", help="read it from stdin")
    logout = subs.add_parser("logout", help="forget a login", allow_abbrev=False)
    logout.set_defaults(work=_logout)
    logout.add_argument("host", metavar="HOST[:PORT]")
    search = _verb(subs, "search", _search, "list what a registry has")
    search.add_argument("host", metavar="HOST[:PORT]")
    search.add_argument(
        "pattern", nargs="?", default="", help="a part of the name, or a pattern with * and ?"
    )
    search.add_argument("--json", action="store_true", help="one JSON document")


def _verb(subs: Any, name: str, work: Any, line: str) -> Any:
    parser = subs.add_parser(
        name, help=line, description=line[0].upper() + line[1:] + ".", allow_abbrev=False
    )
    parser.set_defaults(work=work)
    parser.add_argument("--plain-http", action="store_true", help="the registry speaks no TLS")
    parser.add_argument("--ca-file", metavar="FILE", help="the authority that signed its certificate")
    return parser


def _access(args: argparse.Namespace, user: str = "", password: str = "") -> Any:
    from images.transport import Access

    return Access(args.plain_http, Path(args.ca_file) if args.ca_file else None, user, password)


def _say(args: argparse.Namespace) -> Any:
    return (lambda _line: None) if args.quiet else image_build.progress()


def _pull(args: argparse.Namespace) -> int:
    from images import pull

    image = pull.pull(Store(paths.home()), args.name, _say(args), _access(args), args.arch)
    print(image.digest)
    return 0


def _push(args: argparse.Namespace) -> int:
    from images import pull

    pull.push(Store(paths.home()), args.name, args.target, _say(args), _access(args))
    return 0


def _login(args: argparse.Namespace) -> int:
    from images import credentials
    from images.registry import Registry

    user = args.username or (input("user: ") if sys.stdin.isatty() and not args.password_stdin else "")
    if not user:
        raise Usage("cannot log in at", args.host, "no user is said", "-u NAME --password-stdin")
    password = _password(args)
    Registry(args.host, _access(args, user, password)).ping()
    path = credentials.keep(args.host, user, password)
    print(f"logged in at {args.host}; remembered in {path}, which only you can read")
    return 0


def _password(args: argparse.Namespace) -> str:
    if args.password is not None:
        return str(args.password)
    if args.password_stdin or not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    return getpass.getpass("password: ")


def _logout(args: argparse.Namespace) -> int:
    from images import credentials

    credentials.forget(args.host)
    return 0


def _tags(registry: Any, name: str) -> list[str]:
    """The tags of a repository; none where an upload was begun but never finished."""
    from host.errors import NotFound

    try:
        found: list[str] = registry.tags(name)
    except NotFound:
        return []
    return found


def _search(args: argparse.Namespace) -> int:
    from images.registry import Registry

    registry = Registry(args.host, _access(args))
    pattern = args.pattern if any(c in args.pattern for c in "*?[") else f"*{args.pattern}*"
    names = [name for name in registry.repositories() if fnmatch.fnmatchcase(name, pattern)]
    tagged = [(name, _tags(registry, name)) for name in names]
    found = [{"name": f"{args.host}/{name}", "tags": tags} for name, tags in tagged if tags]
    if args.json:
        print(table.document(images=found))
    else:
        print(table.columns(["NAME", "TAGS"], [[str(one["name"]), ", ".join(one["tags"])] for one in found]))
    return 0
