"""vmm-oci: the command line of an OCI runtime, with the flags that docker, containerd and podman send."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from containers.oci.words import COMMANDS, GLOBAL, Words, parse
from host.errors import BadData, Failure, Usage, from_os_error


def main(argv: list[str] | None = None) -> int:
    """Run one command line and return its exit status; never raises."""
    words = Words({}, "", {}, [])
    try:
        words = parse(list(sys.argv[1:] if argv is None else argv))
        return _dispatch(words)
    except Failure as error:
        return _told(words, error)
    except OSError as error:
        return _told(words, from_os_error(f"cannot finish vmm-oci {words.command}", error))


def _told(words: Words, error: Failure) -> int:
    """The error on stderr, and in --log as its reader wants it: dockerd shows the last `msg` of level
    error.
    """
    sys.stderr.write(f"vmm-oci: {error.told()}\n")
    _log(words, "error", str(error))
    return 1


def _log(words: Words, level: str, message: str) -> None:
    path = (words.globals.get("--log") or [""])[-1]
    if not path:
        return
    import datetime

    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    if (words.globals.get("--log-format") or ["text"])[-1] == "json":
        line = json.dumps({"level": level, "msg": message, "time": now})
    else:
        line = f"time={json.dumps(now)} level={level} msg={json.dumps(message)}"
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError:
        pass  # the error is on stderr too


def _dispatch(words: Words) -> int:
    if "--version" in words.globals:
        return _version()
    if not words.command or "--help" in words.globals:
        print(f"usage: vmm-oci [{'] ['.join(GLOBAL)}] COMMAND [flags] [ID]\ncommands: {' '.join(COMMANDS)}")
        return 0
    return _ACTS[words.command](words)


def _version() -> int:
    from containers.oci.states import VERSION

    print(f"vmm-oci version 0.1.0\nspec: {VERSION}")
    return 0


def _root(words: Words) -> Path:
    from containers.oci.states import default_root

    given = words.globals.get("--root")
    return Path(os.path.abspath(given[-1])) if given else default_root()


def _id(words: Words) -> str:
    if not words.rest:
        raise Usage(f"vmm-oci {words.command} needs the id of a container")
    return words.rest[0]


def _state(words: Words) -> Any:
    from containers.oci import states

    return states.load(_root(words), _id(words))


def _options(words: Words) -> Any:
    from containers.oci.creating import Options

    def absolute(flag: str) -> str:
        return os.path.abspath(words.one(flag)) if words.one(flag) else ""

    keep = words.one("--preserve-fds", "0")
    if not keep.isdigit():
        raise Usage("cannot read --preserve-fds", repr(keep), "not a number")
    return Options(
        root=_root(words),
        id=_id(words),
        pid_file=absolute("--pid-file"),
        console_socket=absolute("--console-socket"),
        preserve_fds=int(keep),
        warn=lambda message: _log(words, "warning", message),
    )


def _create(words: Words) -> int:
    from containers.oci import bundle, creating

    options = _options(words)
    creating.create(bundle.load(words.one("--bundle", ".")), options)
    return 0


def _run(words: Words) -> int:
    from containers.oci import bundle, lifecycle

    options = _options(words)
    opened = bundle.load(words.one("--bundle", "."))
    return lifecycle.run(opened, options, "--detach" in words.flags, "--keep" in words.flags)


def _start(words: Words) -> int:
    from containers.oci import lifecycle

    for warning in lifecycle.start(_state(words)):
        _log(words, "warning", warning)
    return 0


def _show_state(words: Words) -> int:
    state = _state(words)
    shown = state.document() | {"rootfs": state.bundle.rootfs, "created": state.created}
    print(json.dumps(shown, indent=2))
    return 0


def _kill(words: Words) -> int:
    from containers.oci import lifecycle
    from host import signals

    number = signals.number(words.rest[1] if len(words.rest) > 1 else "TERM")
    lifecycle.kill(_state(words), number, "--all" in words.flags)
    return 0


def _delete(words: Words) -> int:
    from containers.oci import lifecycle

    for warning in lifecycle.delete(_root(words), _id(words), "--force" in words.flags):
        _log(words, "warning", warning)
    return 0


def _exec(words: Words) -> int:
    from containers.oci import joining
    from containers.oci.creating import CACHE

    process = _process(words)
    joining_ = joining.Joining(
        process,
        "--detach" in words.flags,
        os.path.abspath(words.one("--pid-file")) if words.one("--pid-file") else "",
        words.one("--console-socket"),
        int(words.one("--preserve-fds", "0")),
    )
    return joining.execute(_state(words), joining_, str(_root(words) / CACHE))


def _process(words: Words) -> dict[str, Any]:
    """--process FILE, or the words after the id with the flags of exec."""
    if words.one("--process"):
        try:
            with open(words.one("--process"), "rb") as file:
                process: dict[str, Any] = json.load(file)
        except ValueError as error:
            raise BadData("cannot read the process", words.one("--process"), str(error)) from None
        return process
    process = {"args": words.rest[1:], "terminal": "--tty" in words.flags}
    if words.one("--cwd"):
        process["cwd"] = words.one("--cwd")
    if words.one("--user"):
        process["user"] = _user(words)
    base = _state(words).bundle.config["process"]
    process["env"] = [*(base.get("env") or ()), *words.flags.get("--env", ())]
    if "--no-new-privs" in words.flags:
        process["noNewPrivileges"] = True
    if words.flags.get("--cap"):
        sets = base.get("capabilities") or {}
        names = ("bounding", "effective", "permitted", "inheritable", "ambient")
        process["capabilities"] = {one: [*(sets.get(one) or ()), *words.flags["--cap"]] for one in names}
    return process


def _user(words: Words) -> dict[str, Any]:
    uid, _, gid = words.one("--user").partition(":")
    groups = words.flags.get("--additional-gids", [])
    if not all(word.isascii() and word.isdigit() for word in (uid, gid or "0", *groups)):
        raise Usage("cannot read --user", repr(words.one("--user")), "write it as UID[:GID], in numbers")
    return {"uid": int(uid), "gid": int(gid or 0), "additionalGids": [int(word) for word in groups]}


def _list(words: Words) -> int:
    from containers.oci import states

    found = states.listing(_root(words))
    if "--quiet" in words.flags:
        print("".join(f"{one.id}\n" for one in found), end="")
    elif words.one("--format") == "json":
        print(json.dumps([one.document() | {"created": one.created} for one in found] or None))
    else:
        rows = [("ID", "PID", "STATUS", "BUNDLE", "CREATED")]
        for one in found:
            told = one.document()
            rows.append((one.id, str(told["pid"]), told["status"], told["bundle"], one.created))
        widths = [max(len(row[at]) for row in rows) for at in range(5)]
        for row in rows:
            print("   ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _ps(words: Words) -> int:
    pids = _state(words).group().pids()
    if words.one("--format") == "json":
        print(json.dumps(pids))
    else:
        print("PID")
        print("".join(f"{pid}\n" for pid in pids), end="")
    return 0


def _pause(words: Words) -> int:
    from containers.oci import lifecycle

    lifecycle.pause(_state(words), words.command == "pause")
    return 0


def _update(words: Words) -> int:
    from containers.oci import updating

    updating.update(_state(words), updating.resources(words.flags))
    return 0


def _features(words: Words) -> int:
    from containers.oci import features

    print(json.dumps(features.document(), indent=2))
    return 0


def _spec(words: Words) -> int:
    from containers.oci import template

    template.write(words.one("--bundle", "."), "--rootless" in words.flags)
    return 0


_ACTS: dict[str, Callable[[Words], int]] = {
    "create": _create,
    "run": _run,
    "start": _start,
    "state": _show_state,
    "kill": _kill,
    "delete": _delete,
    "exec": _exec,
    "list": _list,
    "ps": _ps,
    "pause": _pause,
    "resume": _pause,
    "update": _update,
    "features": _features,
    "spec": _spec,
}


def entry() -> None:
    """The console script: the status is the process's own."""
    sys.exit(main())


if __name__ == "__main__":
    entry()
