"""What killed commands left: recognised by free locks and missing records, and removed."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from host import paths, records
from host.errors import BadData, DeadlinePassed, Failure, NotFound
from instances import kinds, registry


def sweep() -> list[str]:
    """Remove every half-made and every abandoned instance; what was removed, one line each."""
    return sweep_these(*registry.scan())


def sweep_these(found: list[registry.Instance], bare: list[Path]) -> list[str]:
    """The same, after a `registry.scan`: only what may be half made or abandoned is looked at again."""
    candidates = [*bare, *(instance.folder for instance in found if instance.rm)]
    return [said for folder in candidates if (said := _swept(folder))]


def sweep_one(folder: Path) -> bool:
    """Remove the instance in this folder if it is half made or abandoned; whether it was."""
    return bool(_swept(folder))


def _swept(folder: Path) -> str:
    """The sentence about what was removed, or nothing. A folder that somebody holds is never touched."""
    if not (records.is_free(folder) and records.is_free(folder / "lock")):
        return ""
    record = folder / registry.RECORD
    if record.exists() and not _may_be_abandoned(folder):
        return ""
    try:
        with records.lock(folder / "lock", wait_s=0):
            return _remove_if_stray(folder)
    except (DeadlinePassed, FileNotFoundError):
        return ""  # somebody took it, or another sweep was faster
    except Failure:
        return ""  # its backend cannot say how it is: leave it for a person to see in ls -a


def _may_be_abandoned(folder: Path) -> bool:
    try:
        return bool(registry.load(folder.name).rm)
    except Failure:
        return False


def _remove_if_stray(folder: Path) -> str:
    if not (folder / registry.RECORD).exists():
        registry.remove_folder(folder)
        return f"half-made instance {folder.name}"
    instance = registry.load(folder.name)
    backend = kinds.backend(instance)
    if not instance.rm or not records.is_free(folder) or backend.state() in kinds.RUNNING:
        return ""
    backend.remove()
    registry.remove_folder(folder)
    if instance.volumes:
        from instances import volumes

        volumes.remove_anonymous(instance)
    return f"abandoned instance {folder.name}"


def repair() -> list[str]:
    """Everything that is half made in this home, in every room; what was removed, one line each."""
    said = sweep() + _damaged()
    said += _temporary_files(paths.home())
    said += _run_directories()
    for room in ("host.linux.net", "containers.repair", "vmm.repair", "images.repair"):
        said += _room(room)
    return said


def _damaged() -> list[str]:
    """Instances whose record cannot be read are put aside, whole: their data may be worth something."""
    said = []
    for folder in registry.folders():
        try:
            registry.load(folder.name)
        except NotFound:
            continue
        except (BadData, KeyError):
            aside = folder.with_name(f".damaged-{folder.name}-{os.getpid()}")
            folder.rename(aside)
            said.append(f"instance {folder.name}, whose record is damaged: its files are in {aside}")
    return said


def _room(module: str) -> list[str]:
    """What a room's own `repair(home) -> list[str]` removed."""
    from importlib import import_module, util

    try:
        found = util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None:
        return []
    mend = getattr(import_module(module), "repair", None)
    return list(mend(paths.home())) if mend else []


def _temporary_files(home: Path) -> list[str]:
    """Temp files of records whose writer died before its rename: `.NAME.PID.tmp` of a pid that is gone."""
    said = []
    for folder in (home, *registry.folders(), home / "volumes", *_children(home / "volumes")):
        for path in folder.glob(".*.tmp"):
            pid = path.name.split(".")[-2]
            if pid.isdigit() and not Path("/proc", pid).exists():
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()
                    said.append(f"temporary file {path}")
    return said


def _children(folder: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(folder) if entry.is_dir()]
    except FileNotFoundError:
        return []


def _run_directories() -> list[str]:
    """Run directories of instances that are no more."""
    said = []
    known = {folder.name for folder in registry.folders()}
    for entry in _children(paths.run_dir()):
        if entry.name not in known and not entry.name.startswith(".") and not _step_at_work(entry.name):
            registry.remove_tree(entry)
            said.append(f"run directory {entry}")
    return said


def _step_at_work(name: str) -> bool:
    """Whether it is the run directory of a build's step (`step-PID-...`) whose builder lives."""
    words = name.split("-")
    return len(words) == 3 and words[0] == "step" and words[1].isdigit() and Path("/proc", words[1]).exists()
