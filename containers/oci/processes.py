"""What a bundle's `process` says, as the child needs it: environment, paths, terminal, limits."""

from __future__ import annotations

import _socket
import os
import struct

from containers import users
from containers.oci.bundle import Config
from containers.oci.namespaces import write
from host.errors import BadData, Failure

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def environment(process: Config, rootfs: str) -> tuple[str, ...]:
    """process.env with HOME of the image's own passwd where it says none."""
    env = tuple(process.get("env") or ())
    if any(word.startswith("HOME=") for word in env):
        return env
    uid = str((process.get("user") or {}).get("uid", 0))
    return (*env, f"HOME={users.resolve(uid, (rootfs,)).home}")


def candidates(process: Config, env: tuple[str, ...]) -> tuple[str, ...]:
    """The absolute paths at which the program may be: execvp's search, done before the root changes."""
    program = process["args"][0]
    path = next((word[5:] for word in env if word.startswith("PATH=")), DEFAULT_PATH)
    folders = [""] if "/" in program else path.split(":")
    return tuple(os.path.join(process["cwd"], folder, program) for folder in folders)


def console(path: str, opened: list[int]) -> int:
    """A connection to the socket that wants the terminal; -1 where there is none."""
    if not path:
        return -1
    socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        socket.connect(path)
    except OSError as error:
        socket.close()
        raise Failure("cannot reach the console socket", path, os.strerror(error.errno or 0)) from None
    fd: int = socket.detach()
    opened.append(fd)
    return fd


def window(process: Config) -> bytes:
    """process.consoleSize as ioctl_tty(2) takes it, or nothing."""
    size = process.get("consoleSize")
    return struct.pack("HHHH", size["height"], size["width"], 0, 0) if size else b""


def limit_process(process: Config, pid: int) -> None:
    """Set rlimits and the OOM score of a process that waits at its gate."""
    import resource

    for one in process.get("rlimits") or ():
        number = getattr(resource, one["type"], None)
        if number is None:
            raise BadData("cannot set the limit", one["type"], "no such limit")
        try:
            resource.prlimit(pid, number, (_signed(one["soft"]), _signed(one["hard"])))
        except (OSError, ValueError) as error:
            raise Failure("cannot set the limit", one["type"], str(error)) from None
    if process.get("oomScoreAdj") is not None:
        write(f"/proc/{pid}/oom_score_adj", str(process["oomScoreAdj"]))


def _signed(value: int) -> int:
    return -1 if value >= 1 << 63 else value  # RLIM_INFINITY


def personality(wanted: Config) -> int:
    """The number of linux.personality, as personality(2) takes it."""
    known = {"LINUX": 0, "LINUX32": 8}
    if wanted.get("domain") not in known or wanted.get("flags"):
        raise BadData(
            "cannot set the personality", str(wanted.get("domain")), "LINUX or LINUX32, without flags"
        )
    return known[wanted["domain"]]
