"""Filling a template's pool: each paused clone is started, warmed by a program of ours, and stopped.

`python -m vmm.refill HOME NAME` does it after a claim, as a process of its own, one at a time a template.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

from host import paths, records
from host.edges import Edges
from host.errors import DeadlinePassed, Failure, NotFound, from_os_error
from host.exec_request import ExecRequest
from host.stdio import Stdio
from vmm import clones, pool, process, templates
from vmm.admission import boot_timeout_s
from vmm.boot import Boot
from vmm.channel import Channel
from vmm.pool import Member
from vmm.qemu_driver import QemuDriver
from vmm.spec import MachineSpec, from_record, replace
from vmm.templates import Template

# What a clone needs beside its guest's memory, at most: QEMU itself and the code that it has translated.
_BESIDE_BYTES = 64 << 20
_NICE = 19
_CAP_SYS_NICE = 23  # linux/capability.h
# Our helper, which says how it is to be called, and ends: what any command costs the kernel and the helper
# once, and nothing of the image's or the user's.
_WARM_UP = ExecRequest(("/proc/self/exe",))
_DIGEST_S = 0.02  # the guest's answer to a host that hung up


def start(home: Path, name: str) -> None:
    """Have the pool filled by a process of its own, which is nobody's child: it outlives us, and no zombie
    of it stays."""
    words = ["setsid", "--fork", sys.executable, "-P", "-m", "vmm.refill", str(home), name]
    null = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0)
    actions = [null, (os.POSIX_SPAWN_DUP2, 0, 1), (os.POSIX_SPAWN_DUP2, 0, 2)]
    with contextlib.suppress(OSError):  # a run is not to fail of it: the pool only stays short of one
        os.waitpid(os.posix_spawnp(words[0], words, os.environ, file_actions=actions), 0)


def keep(home: Path, name: str, count: int, for_image: bool = True) -> None:
    """Keep so many paused clones of the template ready from now on; returns once they are, or cannot be.

    `for_image`: also for a run of the image that asks for the same hardware, and names no template.
    """
    template = templates.load(home, name)
    spec = from_record(dict(template.spec))
    key = ""
    if for_image and not templates.why_not_automatic(spec):
        key = templates.key(spec, spec.accel, templates.backing(template.disk))
    pool.note(home, template, pool.Wish(count, key))
    fill(home, name)


def resize(home: Path, name: str, count: int) -> None:
    """Keep so many from now on, in a pool that there may be already; none ends it. Raises NotFound."""
    with templates.locked(home, name):  # who fills the pool writes what is wanted of it, too
        template = templates.load(home, name)
        wish = pool.wish(template)
        if wish.wanted and count:
            pool.note(home, template, wish._replace(wanted=count, trouble=""))
        elif wish.wanted:
            pool.forget(home, template)
            (template.folder / templates.POOL).unlink(missing_ok=True)
    if wish.wanted:
        fill(home, name)
    elif count:
        keep(home, name, count)


def fill(home: Path, name: str) -> None:
    """Bring the pool to what is wanted of it; why it could not is kept with it. Returns at once where another
    process is at it: that one looks once more after it has let go of the lock."""
    while True:
        try:
            with records.lock(templates.root(home) / f".{name}.fill", wait_s=0):
                while _one_more(home, name):
                    pass
        except DeadlinePassed:
            return
        if not _is_amiss(home, name):
            return


def _is_amiss(home: Path, name: str) -> bool:
    try:
        template = templates.load(home, name)
    except NotFound:
        return False
    wish = pool.wish(template)
    return not wish.trouble and len(pool.ready(template)) != wish.wanted


def _one_more(home: Path, name: str) -> bool:
    """Make a member where one is wanted; whether to go on. The lock keeps the template there meanwhile."""
    with templates.locked(home, name):
        try:
            template = templates.load(home, name)
        except NotFound:
            return False
        for broken in pool.members(template):
            pool.swept(broken)
        wish = pool.wish(template)
        if len(pool.ready(template)) >= wish.wanted:
            pool.end(template, beyond=wish.wanted)
            trouble = ""
        elif not (trouble := templates.damage(template) or _no_room(template)):
            try:
                make(template)
            except Failure as failure:
                trouble = str(failure)
        if trouble != wish.trouble:
            pool.note(home, template, wish._replace(trouble=trouble))
        return not trouble and len(pool.ready(template)) < wish.wanted


def _no_room(template: Template) -> str:
    """Why the host has no memory for one more, or an empty string; it may come to need all it was given."""
    needed = template.memory_bytes + _BESIDE_BYTES
    with open("/proc/meminfo") as file:
        free = next(int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable"))
    if free >= needed:
        return ""
    return f"the host has no memory for one more: it needs {needed >> 20} MiB, {free >> 20} MiB are available"


def make(template: Template) -> Member:
    """Start a member, warm it and stop it. Raises Failure; a process that dies on the way takes it along."""
    one = pool.member(template, os.urandom(4).hex())
    try:
        one.folder.mkdir(parents=True)
        paths.ensure(one.run)
        return _made(template, one)
    except BaseException as failure:
        pool.discard(one)
        if isinstance(failure, OSError):
            raise from_os_error("cannot make a paused clone of", failure, template.name) from None
        raise


def _made(template: Template, one: Member) -> Member:
    with pool.held(one):
        driver = QemuDriver(one.folder, one.run, _spec(template, one))
        driver.has_cgroup = False  # its machine has one, by the machine's name
        clones.lay_disk(template, Path(driver.spec.disks[0].path), alone=driver.spec.command_mode)
        boot = clones.cloned(driver, driver.spec.accel, Edges(), False, template, boot_timeout_s())
        boot.exposed = ""  # for as long as it waits it is the first to go where memory is out
        try:
            _warm_up(boot, one)
            assert boot.monitor is not None
            boot.monitor.execute("stop")
            _as_urgent_as_others(boot.pid)
            pool.mark_ready(one)
        finally:
            boot.close()
    return one


def _spec(template: Template, one: Member) -> MachineSpec:
    from uuid import uuid4

    spec = clones.unpublished(from_record(dict(template.spec)))
    disk = replace(spec.disks[0], path=str(one.folder / "disk.qcow2"))
    return replace(spec, name=f"pool-{template.name}", uuid=str(uuid4()), disks=(disk,))


def _warm_up(boot: Boot, one: Member) -> None:
    """Go the way that the first command of its machine will: QEMU keeps what it translates on it.

    Its random numbers are the machine's own from the first moment on, as any clone's.
    """
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        channel = boot.channel
        assert channel is not None
        channel.greet()
        channel.reseed()
        channel.set_time()
        boot.await_helper(boot_timeout_s())
        channel.run(_WARM_UP, Stdio(null, null, null))
        channel.close()
        with Channel(process.call(one.run / "guest")) as again:
            again.hello(boot_timeout_s())
            again.reseed()
            again.set_time()
            again.run(_WARM_UP, Stdio(null, null, null))
    finally:
        os.close(null)
    time.sleep(_DIGEST_S)


def _as_urgent_as_others(pid: int) -> None:
    """Undo for QEMU what `main` did to us."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, int(thread), 0)


def _can_come_back() -> bool:
    """Whether we may raise a priority again (capabilities(7), CAP_SYS_NICE)."""
    with open("/proc/self/status") as file:
        held = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff"))
    return bool(held >> _CAP_SYS_NICE & 1)


def main(home: Path, name: str) -> None:
    """Fill the pool behind those who work."""
    if _can_come_back():  # else its members, too, would stay behind for ever
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    with contextlib.suppress(Failure):
        fill(home, name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
