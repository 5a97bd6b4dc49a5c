"""The instances of a home: claimed by mkdir, held by flock, found by name or id, cleaned by the next command.

Two locks, both let go by the kernel when their holder dies:

- `folder/lock` is held by the command that changes an instance (create, start, stop, rm ...), briefly;
- the folder itself is held by the foreground `vmm run` that owns the instance, for as long as it lives.

A folder that nobody holds and that has no `instance.json` is half made; one with `rm: true` that runs nothing
was abandoned. `sweep` removes both.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from host import paths, records
from host.errors import BadData, InUse, NotFound
from host.typing import Any, NamedTuple
from instances import names

SCHEMA_VERSION = 1
RECORD = "instance.json"


class Instance(NamedTuple):
    """One instance, as its record says; `spec` is what the backend's spec says of itself."""

    id: str
    name: str
    kind: str
    image: str
    image_digest: str
    created_unix_s: float
    rm: bool
    command: tuple[str, ...]
    labels: dict[str, str]
    volumes: tuple[str, ...]
    spec: dict[str, Any]
    folder: Path
    run: Path

    def to_record(self) -> records.Record:
        """The fields of instance.json; the paths follow from where it lies."""
        fields = self._asdict()
        del fields["folder"], fields["run"]
        return {"schema_version": SCHEMA_VERSION, **fields}


def folder_of(name: str) -> Path:
    """The folder of the instance of that name."""
    return paths.instances_dir() / name


def run_of(name: str) -> Path:
    """The directory for what dies with the host's boot."""
    return paths.run_dir() / name


def load(name: str) -> Instance:
    """The instance of exactly that name; raises NotFound."""
    folder = folder_of(name)
    try:
        record = records.read(folder / RECORD)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound("no instance", repr(name), hint="vmm ls -a lists them") from None
    return _from_record(record, folder)


def _from_record(record: records.Record, folder: Path, run: Path | None = None) -> Instance:
    name = folder.name  # the folder is the truth: a rename is one rename(2)
    if name != record["name"]:
        record = {**_renamed(record, f"/{record['name']}/", f"/{name}/"), "name": name}
        record["spec"]["name"] = name
    return Instance(
        id=record["id"],
        name=name,
        kind=record["kind"],
        image=record["image"],
        image_digest=record["image_digest"],
        created_unix_s=record["created_unix_s"],
        rm=record["rm"],
        command=tuple(record["command"]),
        labels=record.get("labels", {}),
        volumes=tuple(record.get("volumes", ())),
        spec=record["spec"],
        folder=folder,
        run=(run or paths.run_dir()) / name,
    )


def _renamed(value: Any, old: str, new: str) -> Any:
    """The record with the instance's own paths as they are after a rename."""
    if isinstance(value, dict):
        return {key: _renamed(one, old, new) for key, one in value.items()}
    if isinstance(value, list):
        return [_renamed(one, old, new) for one in value]
    if isinstance(value, str) and value.startswith((str(paths.instances_dir()), str(paths.run_dir()))):
        return value.replace(old, new, 1)
    return value


def save(instance: Instance, durable: bool = True) -> None:
    """Write the record: from here on the instance exists."""
    records.write(instance.folder / RECORD, instance.to_record(), durable=durable)


def find(word: str) -> Instance:
    """The instance of that name, or the only one whose id begins so; NotFound, or InUse for several."""
    try:
        return load(names.check(word))
    except NotFound:
        near = [one for one in every() if len(word) >= 2 and one.id.startswith(word)]
        if len(near) == 1:
            return near[0]
        if near:
            which = ", ".join(one.name for one in near)
            raise InUse("cannot tell which instance", repr(word), f"several ids begin so: {which}") from None
        raise


def every() -> list[Instance]:
    """All instances that exist, oldest first; half-made ones are left out."""
    return scan()[0]


def scan() -> tuple[list[Instance], list[Path]]:
    """All instances, oldest first, and the folders without a record: one look at the disk for both."""
    found, bare, run = [], [], paths.run_dir()
    for folder in folders():
        try:
            found.append(_from_record(records.read(folder / RECORD), folder, run))
        except (FileNotFoundError, NotADirectoryError):
            bare.append(folder)
        except (BadData, KeyError):
            continue  # it hides no neighbour: `vmm doctor --repair` puts it aside
    return sorted(found, key=lambda one: (one.created_unix_s, one.name)), bare


def folders() -> list[Path]:
    """Every instance's folder, half made ones too."""
    try:
        with os.scandir(paths.instances_dir()) as entries:
            return [Path(entry.path) for entry in entries if not entry.name.startswith(".")]
    except FileNotFoundError:
        return []


@contextlib.contextmanager
def claim(wanted: str | None) -> Iterator[tuple[str, str, Path]]:
    """Claim a name by mkdir(2) and hold its lock; yields (id, name, folder).

    A failure inside unmakes the folder. Raises InUse when the name is taken.
    """
    identity = names.new_id()
    if wanted is None:
        wanted = names.made_up(identity, {folder.name for folder in folders()})
    folder = folder_of(names.check(wanted))
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            _make_folder(folder)
            fd = stack.enter_context(records.lock(folder / "lock"))
            if _is_same_file(fd, folder / "lock") and not (folder / RECORD).exists():
                break
            # Before we held it a sweep took the empty folder for a half-made one, or a rename came onto it.
            stack.close()
        try:
            yield identity, folder.name, folder
        except BaseException:
            if not (folder / RECORD).exists():
                remove_folder(folder)
            raise


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir()
    except FileNotFoundError:
        paths.ensure(folder.parent)
        _make_folder(folder)
    except FileExistsError:
        if not _swept(folder):
            hint = f"vmm rm {folder.name} removes it; or choose another name"
            raise InUse("cannot take the name", repr(folder.name), "an instance has it", hint) from None
        _make_folder(folder)


def _is_same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def _swept(folder: Path) -> bool:
    from instances.repair import sweep_one

    return sweep_one(folder)


def remove_folder(folder: Path) -> None:
    """Delete an instance's folder; the record goes first: a kill in the middle leaves a half-made one."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(folder / RECORD)
    remove_tree(run_of(folder.name))
    remove_tree(folder)


def remove_tree(tree: Path) -> None:
    """Delete a tree without ever crossing into a file system that is still mounted in it."""
    try:
        _remove_shallow(str(tree), 4)
    except FileNotFoundError:
        return
    except OSError:
        _remove_anything(str(tree))


def _remove_anything(path: str) -> None:
    """rm knows any depth, and directories without rights, as overlayfs leaves them in `work`."""
    argv, what = ["rm", "-rf", "--one-file-system", "--", path], "cannot delete the folder"
    if os.geteuid() == 0:
        from host import commands

        commands.run(argv, what)
        return
    from host.linux import idmap

    # What a container's other users made belongs to subordinate ids: the root over these may remove it.
    idmap.inside(idmap.of_user(), lambda: os.execvp(argv[0], argv), f"{what} {path}")


def _remove_shallow(path: str, depth: int) -> None:
    """The quick way for the few files that an instance usually leaves; raises OSError for anything else."""
    with os.scandir(path) as entries:
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
                continue
            try:
                os.rmdir(entry.path)
            except OSError as error:
                if error.errno != errno.ENOTEMPTY or not depth:
                    raise
                _remove_shallow(entry.path, depth - 1)
    os.rmdir(path)


def move(instance: Instance, name: str) -> Instance:
    """Give the folder another name; the caller holds the instance. Raises InUse when the name is taken."""
    target = folder_of(names.check(name))
    try:
        os.rename(instance.folder, target)  # one rename(2): there is no moment with two names or none
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        raise InUse("cannot take the name", repr(name), "an instance has it") from None
    remove_tree(run_of(name))
    with contextlib.suppress(FileNotFoundError):
        os.rename(instance.run, run_of(name))  # how it ended, until the host's next boot
    return load(name)


def held(instance: Instance, wait_s: float = 30.0) -> contextlib.AbstractContextManager[int]:
    """The lock of a command that changes the instance; NotFound when it went away while we waited."""
    return _held(instance, wait_s)


@contextlib.contextmanager
def _held(instance: Instance, wait_s: float) -> Iterator[int]:
    if not (instance.folder / RECORD).exists():
        raise NotFound("no instance", repr(instance.name), "it is gone", "vmm ls -a lists them")
    with records.lock(instance.folder / "lock", wait_s) as fd:
        if not (instance.folder / RECORD).exists():
            raise NotFound("no instance", repr(instance.name), "another command has just removed it")
        yield fd


@contextlib.contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Hold the folder itself, as the foreground command that the instance belongs to."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def now_unix_s() -> float:
    """The wall clock, for records that people read."""
    return round(time.time(), 3)
