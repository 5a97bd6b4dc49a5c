"""QEMU as nobody in particular: which user it drops to, and the words of setpriv(1) that take it there.

Root starts QEMU as the system user `vmm` (where somebody made one), or as an unnamed uid where there is none.
It gets no capability and no way to gain one; of the host's files it may read what everybody may, and write
what it was given in its own folder.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from host import paths

USER = "vmm"
# Above Debian's dynamic users, below nobody: no package of Debian has it (base-passwd's list of reserved
# uids).
UNNAMED_UID = 64901


class Confinement(NamedTuple):
    """The user that QEMU runs as; uid None is the caller's own, and `note` says why where root must stay
    root."""

    uid: int | None = None
    gid: int | None = None
    groups: tuple[int, ...] = ()
    note: str = ""

    def prefix(self, dies_with_caller: bool, leash: int = -1) -> list[str]:
        """The words before QEMU's own that drop rights and, where asked, tie its life to the caller's, or to
        the other end of a socket that it inherits (vmm.leash).

        They are setpriv(1)'s, in the order in which each is still allowed; our helper obeys them (confine.c),
        as setpriv costs a start 4 ms and cannot look whether the caller lives.
        """
        words = [str(paths.guest_helper()), "confine"]
        if self.uid is not None:
            groups = ",".join(map(str, self.groups))
            words += [f"--groups={groups}"] if groups else ["--clear-groups"]
            words += ["--bounding-set=-all", "--inh-caps=-all"]
            words += [f"--regid={self.gid}", f"--reuid={self.uid}"]
        words.append("--no-new-privs")
        # Last, as a change of user makes the kernel forget it (prctl(2), PR_SET_PDEATHSIG).
        words += [f"--dies-with={os.getpid()}"] if dies_with_caller else []
        words += [f"--leash={leash}"] if leash >= 0 else []
        return [*words, "--"]

    def give(self, path: Path, mode: int = 0o600) -> None:
        """Make one file of the instance's own QEMU's."""
        if self.uid is None:
            return
        os.chown(path, self.uid, self.gid if self.gid is not None else -1)
        if stat.S_IMODE(path.stat().st_mode) != mode:
            path.chmod(mode)


def confinement(files: Iterable[str], kvm: bool, user: tuple[int, int] | None = None) -> Confinement:
    """The user for a machine that needs `files`; root stays root, with a note, where one is closed to that
    user."""
    if os.geteuid():
        return Confinement()
    uid, gid = user or _user()
    groups = _kvm_group() if kvm else ()
    if kvm and not groups:
        return Confinement(
            note="QEMU runs as root: /dev/kvm is closed to groups; chgrp kvm /dev/kvm; chmod 660 /dev/kvm"
        )
    for path in files:
        blocked = closed_to(Path(path), uid, (gid,))
        if blocked:
            return Confinement(
                note=f"QEMU runs as root: {blocked} is closed to its own user; chmod o+x {blocked}"
            )
    return Confinement(uid, gid, groups)


def _user() -> tuple[int, int]:
    import pwd

    try:
        entry = pwd.getpwnam(USER)
    except KeyError:
        return UNNAMED_UID, UNNAMED_UID
    return entry.pw_uid, entry.pw_gid


def _kvm_group() -> tuple[int, ...]:
    try:
        device = os.stat("/dev/kvm")
    except OSError:
        return ()
    return (device.st_gid,) if device.st_mode & stat.S_IWGRP else ()


def closed_to(path: Path, uid: int, gids: tuple[int, ...]) -> Path | None:
    """The first directory above `path` that the user cannot pass, by mode bits; None where all are open."""
    for directory in reversed(path.parents):
        try:
            told = directory.stat()
        except OSError:
            return None
        if told.st_uid == uid:
            open_bit = stat.S_IXUSR
        else:
            open_bit = stat.S_IXGRP if told.st_gid in gids else stat.S_IXOTH
        if not told.st_mode & open_bit:
            return directory
    return None
