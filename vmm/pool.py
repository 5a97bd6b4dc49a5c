"""A template's pool: clones of it that are started, warmed and paused beforehand; a claim lets one go on.

A member is a folder `templates/NAME/pool/ID` (its disk and logs) and a run directory `RUN/.p-ID` (sockets,
pid file, `ready` once it stands still). A claim takes flock(2) of the run directory, renames it to the
machine's own, and the files into the machine's folder: QEMU holds them open, and opens none by path again.
What makes members is vmm.refill.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from host import paths, records
from host.errors import BadData, DeadlinePassed, Failure, NotFound
from vmm import process, templates
from vmm.spec import MachineSpec, from_record
from vmm.templates import Template

if TYPE_CHECKING:
    from host.edges import Edges
    from vmm.boot import Boot
    from vmm.monitor import Monitor
    from vmm.qemu_driver import QemuDriver

LARGEST = 64
_READY = "ready"
_FILES = ("disk.qcow2", "serial.log", "log", "status", "qemu.log")
_GREETING_S = 2.0


class Wish(NamedTuple):
    """How many paused clones a template is to have, the key of the machines that they serve, and why there
    are fewer."""

    wanted: int = 0
    key: str = ""
    trouble: str = ""


class Member(NamedTuple):
    """One paused clone, or what is left of one."""

    id: str
    folder: Path
    run: Path

    @property
    def pid(self) -> int | None:
        """Its QEMU's pid; None where it does not run."""
        return process.living(self.run / "pid")

    @property
    def is_ready(self) -> bool:
        """Whether it was made to its end."""
        return (self.run / _READY).exists()


# ---- what is wanted ----


def wish(template: Template) -> Wish:
    """What is wanted of the template's pool; a template without one wants 0."""
    try:
        record = records.read(template.folder / templates.POOL)
    except (FileNotFoundError, BadData):
        return Wish()
    return Wish(int(record["wanted"]), str(record["key"]), str(record["trouble"]))


def note(home: Path, template: Template, wanted: Wish) -> None:
    """Keep what is wanted; `vmm run` of an image finds the pool by its key."""
    records.write(template.folder / templates.POOL, wanted._asdict())
    if wanted.key:
        records.write_bytes(templates.pool_file(home, wanted.key), template.name.encode())


def serving(home: Path, key: str) -> Template | None:
    """The sound template whose pool has machines of this key (templates.key), or None."""
    try:
        name = templates.pool_file(home, key).read_text()
        found = templates.load(home, name)
    except (FileNotFoundError, NotFound, BadData, KeyError):
        return None
    return None if templates.damage(found) else found


# ---- members ----


def member(template: Template, id_: str) -> Member:
    """The member of that id, whether it is there or not."""
    home = template.folder.parent.parent
    return Member(id_, template.folder / "pool" / id_, paths.run_dir(home) / f".p-{id_}")


def members(template: Template) -> list[Member]:
    """What lies in the template's pool, in whatever state."""
    try:
        return [member(template, name) for name in sorted(os.listdir(template.folder / "pool"))]
    except (FileNotFoundError, NotADirectoryError):
        return []


def ready(template: Template) -> list[Member]:
    """The members that can be claimed now."""
    return [one for one in members(template) if one.is_ready and one.pid is not None]


@contextlib.contextmanager
def held(one: Member) -> Iterator[bool]:
    """Hold the member for as long as the context lasts; false where another has it, or it has no run
    directory."""
    try:
        fd = os.open(one.run, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(fd)


def mark_ready(one: Member) -> None:
    """From here on it can be claimed, by whoever gets its lock."""
    (one.run / _READY).touch()


# ---- claimed ----


def serves(template: Template, spec: MachineSpec, accel: str) -> bool:
    """Whether the pool's members are what the spec asks for: the same devices, and an identity of its own."""
    frozen = from_record(dict(template.spec))
    asked, made = (templates.neutral(one, "")._replace(accel=accel) for one in (spec, frozen))
    return frozen.accel == accel and asked == made


def claim(driver: QemuDriver, template: Template, edges: Edges, dies_with_us: bool) -> Boot | None:
    """Make a paused clone the driver's machine and let it go on; None where there is none to be had.

    It ends with us until its Boot is closed, or, where it is to die with us, for good.
    """
    for one in members(template):
        with held(one) as ours:
            if ours and one.is_ready and (boot := _taken(one, driver, edges, dies_with_us)):
                return boot
    return None


def _taken(one: Member, driver: QemuDriver, edges: Edges, dies_with_us: bool) -> Boot | None:
    from vmm.monitor import JOURNAL, connect

    pid = one.pid
    try:
        control = connect(one.run / "ctl", _GREETING_S, driver.run / JOURNAL)
    except (Failure, OSError):
        discard(one)
        return None
    if pid is None:
        control.close()
        return None
    edges.mark("t2")
    try:
        return _handed_over(one, driver, edges, dies_with_us, control, pid)
    except BaseException as failure:
        edges.stamps_ns.pop("t2", None)
        control.close()
        process.end(pid)
        _remove(driver.run)
        discard(one)
        if isinstance(failure, (Failure, OSError)):
            return None
        raise


def _handed_over(
    one: Member, driver: QemuDriver, edges: Edges, dies_with_us: bool, control: Monitor, pid: int
) -> Boot:
    from vmm.boot import Boot
    from vmm.leash import Leash

    leash = Leash()
    leash.tie(control, pid)
    (one.run / _READY).unlink()
    os.rename(one.run, driver.run)
    control.name = driver.folder.name
    boot = Boot(driver.folder, edges, pid, process.call(driver.run / "guest"), monitor=control)
    try:
        driver.adopt(boot, leash, dies_with_us)
        control.execute("cont")
        for name in _FILES:
            with contextlib.suppress(FileNotFoundError):
                os.rename(one.folder / name, driver.folder / name)
    except BaseException:
        boot.close()
        raise
    with contextlib.suppress(OSError):
        one.folder.rmdir()
    edges.mark("t3")
    boot.cloned = True
    boot.exposed = process.own_exposure()  # the kernel's first choice for as long as it waited
    return boot


# ---- ended ----


def discard(one: Member) -> None:
    """End the member and remove what it has; the caller holds it, or it has no run directory."""
    if (pid := one.pid) is not None:
        process.end(pid)
    _remove(one.run)
    _remove(one.folder)


def _remove(tree: Path) -> None:
    import shutil  # loads compressors

    shutil.rmtree(tree, ignore_errors=True)


def end(template: Template, beyond: int = 0) -> int:
    """End every member, or those that are ready `beyond` so many, that nobody holds; how many there were. One
    that is being claimed is a machine."""
    count = 0
    for one in ready(template)[beyond:] if beyond else members(template):
        with held(one) as ours:
            if ours:
                discard(one)
                count += 1
    return count


def forget(home: Path, template: Template) -> None:
    """End the pool for good; the template's folder goes next."""
    wanted = wish(template)
    end(template)
    if wanted.key:
        file = templates.pool_file(home, wanted.key)
        with contextlib.suppress(FileNotFoundError):
            if file.read_text() == template.name:
                file.unlink()


def sweep(home: Path) -> list[str]:
    """End what no claim may have any more, and remove what killed commands left; what was removed."""
    gone = []
    for template in templates.every(home):
        if members(template):
            # Who makes a member has the template's lock; nothing is half made then but by him.
            with contextlib.suppress(DeadlinePassed), templates.locked(home, template.name, wait_s=0):
                gone += _swept_of(template)
    for run in paths.run_dir(home).glob(".p-*"):
        if not any(templates.root(home).glob(f"*/pool/{run.name.removeprefix('.p-')}")):
            gone += swept(Member(run.name, run, run))
    return gone


def _swept_of(template: Template) -> list[str]:
    broken = templates.damage(template)
    if broken and (ended := end(template)):
        return [f"{ended} paused clones of {template.name}: {broken}"]
    return [line for one in members(template) for line in swept(one)]


def swept(one: Member) -> list[str]:
    """Remove a member that is half made, or whose QEMU is gone; one that is being made or claimed is held."""
    if one.run.exists():
        with held(one) as ours:
            if not ours or (one.is_ready and one.pid is not None and one.folder != one.run):
                return []
            discard(one)
    else:
        _remove(one.folder)
    return [str(one.folder)]


# ---- told ----


def facts(template: Template) -> dict[str, Any]:
    """What the pool has: wanted, ready, each paused clone with its own memory in bytes, and what is amiss."""
    wanted, there = wish(template), ready(template)
    held_ = [{"id": one.id, "pid": one.pid, "memory_bytes": own_bytes(one)} for one in there]
    return {"wanted": wanted.wanted, "ready": len(there), "members": held_, "trouble": wanted.trouble}


def own_bytes(one: Member) -> int:
    """The memory that nobody shares with the member's QEMU (proc(5), smaps_rollup); 0 where it is gone."""
    try:
        lines = Path(f"/proc/{one.pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Private_"))
