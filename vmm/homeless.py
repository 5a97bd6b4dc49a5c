"""Frozen memory of homes that are gone: `rm -r $VMM_HOME` does not reach /dev/shm.

Beside the memory of a home's templates lies which home it is, and on which device: a home that is only not
mounted just now keeps what it has.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from vmm import templates

_MARK = ".home"


def note(home: Path) -> None:
    """Make the folder of a home's frozen memory, and write down whose it is, if there is room for that."""
    folder = templates.memory_dir(home)
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / _MARK
    if not mark.exists():
        draft = folder / f"{_MARK}.{os.getpid()}"
        try:
            draft.write_text(f"{os.stat(home).st_dev} {home.absolute()}")
            draft.rename(mark)
        except OSError:  # the memory itself will find no room, and say so
            draft.unlink(missing_ok=True)


def sweep(home: Path) -> list[str]:
    """Remove the memory of homes of ours that were removed, clones that run keep theirs; the folders."""
    mine = templates.memory_dir(home)
    found = [folder for folder in mine.parent.glob("vmm-*") if folder != mine and _is_homeless(folder)]
    for folder in found:
        shutil.rmtree(folder, ignore_errors=True)
    return [str(folder) for folder in found]


def _is_homeless(folder: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):
        if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
            return False
        device, _, path = (folder / _MARK).read_text().partition(" ")
        home = Path(path)
        above = next(one for one in home.parents if one.exists())
        return not home.exists() and above.stat().st_dev == int(device)
    return False
