"""The command of an instance: how the image's words and the user's combine; docker's rules for both kinds."""

from __future__ import annotations

from host.errors import Usage
from host.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from images.config import ImageConfig
    from instances.requests import RunRequest


def argv_of(request: RunRequest, config: ImageConfig) -> tuple[str, ...]:
    """ENTRYPOINT then CMD; words of the user replace CMD, --entrypoint replaces both.

    Raises Usage when nothing is left to run.
    """
    if request.entrypoint is not None:
        argv = (*request.entrypoint, *request.command)
    else:
        argv = (*config.entrypoint, *(request.command or config.cmd))
    if not argv:
        hint = f"vmm run {request.image} COMMAND"
        raise Usage("nothing to run", why=f"the image {request.image} names no command", hint=hint)
    return argv


def environment(request: RunRequest, config: ImageConfig, path: str, hostname: str) -> tuple[str, ...]:
    """`K=V` words: our defaults, then the image's, then the user's; the last word on a name counts."""
    words = {"PATH": path, "HOSTNAME": hostname}
    if request.tty:
        words["TERM"] = "xterm"
    for pair in config.env:
        key, _, value = pair.partition("=")
        words[key] = value
    words.update(request.env)
    return tuple(f"{key}={value}" for key, value in words.items())
