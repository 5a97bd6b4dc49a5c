"""The errors a user sees: what was tried, on what, the system's words, and a hint.

    Failure                exit 1
    ├── Usage              exit 2    the words of the command are wrong
    ├── NotFound                     no instance, image, network... of that name
    ├── InUse                        the name or the resource belongs to somebody
    ├── WrongState                   the instance is not in the state the command needs
    ├── Unsupported                  this kind, driver or host cannot do it, and what can
    ├── HostUnfit                    the host lacks a capability; the hint mends it
    ├── BadData                      a file, image or reply is not what it claims to be
    ├── DeadlinePassed               a wait ended without the thing it waited for
    └── CommandFailed                a program we called failed; carries argv, status and log tail

`run`, `create` and `exec` turn every one of these into exit status 125 (the contract of docker run).
"""

from __future__ import annotations

import os
from collections.abc import Sequence


class Failure(Exception):
    """A failure told to the user: `what` we tried, `on` what, `why` in the system's words, and a `hint`."""

    exit_status = 1

    def __init__(self, what: str, on: str = "", why: str = "", hint: str = "") -> None:
        super().__init__(what, on, why, hint)
        self.what, self.on, self.why, self.hint = what, on, why, hint

    def __str__(self) -> str:
        head = f"{self.what} {self.on}".rstrip() if self.on else self.what
        return f"{head}: {self.why}" if self.why else head

    def told(self) -> str:
        """The text for stderr: one line, then a `hint:` line where a remedy is known."""
        return f"{self}\nhint: {self.hint}" if self.hint else str(self)


class Usage(Failure):
    """The words of the command are wrong."""

    exit_status = 2


class NotFound(Failure):
    """Nothing of that name is here."""


class InUse(Failure):
    """The name, port, file or resource belongs to something else."""


class WrongState(Failure):
    """The instance is not in the state that the command needs."""


class Unsupported(Failure):
    """This kind, driver or host cannot do it; the hint names what can."""


class HostUnfit(Failure):
    """The host lacks a capability; the hint is the command that mends it."""


class BadData(Failure):
    """A file, an image or a reply is not what it claims to be."""


class DeadlinePassed(Failure):
    """A wait ended without the thing that it waited for."""


class CommandFailed(Failure):
    """A program that we called failed.

    `argv` is the replayable command, `status` its exit status (negative: minus the signal), `log` the tail of
    what it said.
    """

    def __init__(self, what: str, argv: Sequence[str], status: int, log: str, hint: str = "") -> None:
        tail = log.strip()[-2000:]
        why = f"{argv[0]} ended with {status}" + (f"\n{tail}" if tail else "")
        super().__init__(what, why=why, hint=hint)
        self.argv, self.status, self.log = tuple(argv), status, tail


def from_os_error(what: str, error: OSError, on: str = "", hint: str = "") -> Failure:
    """The Failure that retells an OSError in its own words; no space left gets the hint that helps."""
    import errno

    words = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT) and not hint:
        hint = "free space with `vmm prune`, or point VMM_HOME at a larger file system"
    home = os.environ.get("VMM_HOME")
    if error.errno in (errno.EROFS, errno.ENOTDIR) and home and (on or str(error.filename)).startswith(home):
        hint = hint or f"point VMM_HOME at a directory that you can write to; it is {home}"
    return Failure(what, on or str(error.filename or ""), words, hint)
