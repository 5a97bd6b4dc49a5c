"""User and group id maps of user namespaces: user_namespaces(7), subuid(5), newuidmap(1)."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from host.errors import Failure, HostUnfit
from host.linux import syscalls
from host.typing import NamedTuple

Range = tuple[int, int, int]


class IdMaps(NamedTuple):
    """Ranges of (id inside, id outside, count); `by_helper` where only newuidmap may write them."""

    uids: tuple[Range, ...]
    gids: tuple[Range, ...]
    by_helper: bool = False

    def whole(self) -> bool:
        """Whether more than one id exists inside, so that setgroups and other users work."""
        return sum(count for _, _, count in self.uids) > 1

    def refuse_missing(self, uid: int, gid: int) -> None:
        """Raise HostUnfit for a user inside who is nobody out here."""
        for number, ranges in ((uid, self.uids), (gid, self.gids)):
            if not any(inside <= number < inside + count for inside, _, count in ranges):
                why = f"the id {number} is not among the subordinate ids of this user"
                raise HostUnfit("cannot run as the user", f"{uid}:{gid}", why, "vmm doctor: `id ranges`")


def of_user() -> IdMaps:
    """Root inside is this user; the rest is its subordinate range, where /etc/subuid and newuidmap give
    one.
    """
    import shutil

    uid, gid = os.geteuid(), os.getegid()
    uids, gids = _subordinate("/etc/subuid", uid), _subordinate("/etc/subgid", uid)
    if uids and gids and shutil.which("newuidmap") and shutil.which("newgidmap"):
        return IdMaps(((0, uid, 1), (1, *uids)), ((0, gid, 1), (1, *gids)), by_helper=True)
    return IdMaps(((0, uid, 1),), ((0, gid, 1),))


def _subordinate(file: str, uid: int) -> tuple[int, int] | None:
    import pwd

    try:
        names = {str(uid), pwd.getpwuid(uid).pw_name}
    except KeyError:
        names = {str(uid)}
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, rest = line.partition(":")
        first, _, count = rest.partition(":")
        if name in names and first.isdigit() and count.isdigit():
            return int(first), int(count)
    return None


def write(pid: int, maps: IdMaps) -> None:
    """Give the maps to the user namespace of a process that waits for them.

    Raises HostUnfit where the kernel or newuidmap refuses.
    """
    if maps.by_helper:
        from host import commands

        for program, ranges in (("newuidmap", maps.uids), ("newgidmap", maps.gids)):
            words = [str(number) for one in ranges for number in one]
            commands.run([program, str(pid), *words], "cannot map the user ids", timeout_s=10)
        return
    try:
        if (
            os.geteuid() != 0
        ):  # user_namespaces(7): without privilege outside, setgroups must be given up first
            _put(pid, "setgroups", "deny")
        _put(pid, "uid_map", _lines(maps.uids))
        _put(pid, "gid_map", _lines(maps.gids))
    except OSError as error:
        hint = "sysctl kernel.unprivileged_userns_clone=1 (or kernel.apparmor_restrict_unprivileged_userns=0)"
        raise HostUnfit("cannot map the user ids", str(pid), os.strerror(error.errno or 0), hint) from None


def _lines(ranges: tuple[Range, ...]) -> str:
    return "\n".join(f"{inside} {outside} {count}" for inside, outside, count in ranges)


def _put(pid: int, file: str, text: str) -> None:
    fd = os.open(f"/proc/{pid}/{file}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def namespace(maps: IdMaps) -> int:
    """A descriptor of a new user namespace with `maps`, for mount_setattr(2); nobody lives in it."""
    gate_read, gate_write = os.pipe2(os.O_CLOEXEC)
    pid = syscalls.clone3(syscalls.CLONE_NEWUSER, signal.SIGCHLD)
    if pid == 0:
        try:
            os.close(gate_write)
            os.read(gate_read, 1)
        finally:
            os._exit(0)
    try:
        write(pid, maps)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(gate_write)
        os.close(gate_read)
        os.waitpid(pid, 0)


def inside(maps: IdMaps, work: Callable[[], None], what: str) -> None:
    """Do `work` as root of a user namespace with `maps`, in a child: for files that belong to mapped ids.

    Raises Failure saying `what` where it did not succeed.
    """
    gate_read, gate_write = os.pipe2(os.O_CLOEXEC)
    pid = syscalls.clone3(syscalls.CLONE_NEWUSER, signal.SIGCHLD)
    if pid == 0:
        _work_inside(gate_read, gate_write, work)
    try:
        os.close(gate_read)
        write(pid, maps)
        os.write(gate_write, b"g")
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        os.close(gate_write)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        raise Failure(
            what, why=os.strerror(status) if 0 < status < 125 else f"the helper ended with {status}"
        )


def _work_inside(gate_read: int, gate_write: int, work: Callable[[], None]) -> None:
    status = 125
    try:
        os.close(gate_write)
        if os.read(gate_read, 1):
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            work()
            status = 0
    except OSError as error:
        status = min(error.errno or 125, 125)
    finally:
        os._exit(status)
