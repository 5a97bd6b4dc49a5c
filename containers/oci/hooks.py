"""Hooks of a bundle: run with the state on stdin, in order, until one fails (runtime-spec, config.md, POSIX
hooks).
"""

from __future__ import annotations

import json
import os
from typing import Any

from containers.oci.bundle import Bundle, Config
from host.errors import CommandFailed, DeadlinePassed, Failure

NAMES = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


def listed(bundle: Bundle, name: str) -> list[Config]:
    """The hooks of one moment."""
    return list(bundle.part("hooks", name) or ())


def run(bundle: Bundle, name: str, state: dict[str, Any]) -> None:
    """Run the hooks of one moment; CommandFailed or DeadlinePassed for the first that fails."""
    for hook in listed(bundle, name):
        run_one(name, hook, state)


def run_one(name: str, hook: Config, state: dict[str, Any]) -> None:
    """Run one hook: its own args and environment, nothing of ours."""
    import subprocess

    path = hook["path"]
    what = f"cannot run the {name} hook"
    if not path.startswith("/"):
        raise Failure(what, path, "its path is not absolute")
    argv = list(hook.get("args") or [path])
    env = dict(word.partition("=")[::2] for word in hook.get("env") or ())
    timeout_s = hook.get("timeout") or None
    try:
        done = subprocess.run(
            argv, executable=path, input=json.dumps(state).encode(), env=env, timeout=timeout_s,
            capture_output=True, check=False, cwd=state["bundle"],
        )  # fmt: skip
    except OSError as error:
        raise Failure(what, path, os.strerror(error.errno or 0)) from None
    except subprocess.TimeoutExpired:
        raise DeadlinePassed(what, path, f"it had not ended after {timeout_s} s") from None
    if done.returncode:
        raise CommandFailed(
            what, argv, done.returncode, (done.stderr or done.stdout).decode(errors="replace")
        )
