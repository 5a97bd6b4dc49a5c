"""The holes of a template's memory file: who reads a clone's whole memory fills them, here they come back.

A page that the template's guest never touched is a hole of the file. A clone maps the file privately, and a
read of a hole through a mapping gives tmpfs a page of zeros to keep (mm/shmem.c, shmem_fault): a snapshot
with memory, a live clone or a migration of one clone would make its template as large as its RAM.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from host import commands, paths, records
from host.errors import Failure
from vmm import templates

_OBJECT = b"memory-backend-file,id=ram,"


def memory_of(pid: int | None) -> Path | None:
    """The template's memory file that the QEMU of this pid maps privately; None: it is no clone of one."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    for word in words:
        if word.startswith(_OBJECT) and word.endswith(b",share=off"):
            path = word.partition(b"mem-path=")[2].removesuffix(b",share=off").replace(b",,", b",")
            memory = Path(os.fsdecode(path))
            return memory if memory.parent == templates.memory_dir(paths.home()) else None
    return None


def give_back(memory: Path | None) -> None:
    """Dig the zeros out of a template's memory again; its time stays, for that tells whether it was changed.

    What cannot be done costs memory only, and is no failure of the command that read.
    """
    if memory is None:
        return
    with contextlib.suppress(Failure, FileNotFoundError), templates.locked(paths.home(), memory.stem, 10.0):
        settle(memory)
        records.write_bytes(_mark(memory), str(memory.stat().st_mtime_ns).encode())
        try:
            commands.run(("fallocate", "--dig-holes", str(memory)), "cannot dig holes", timeout_s=60)
        finally:
            settle(memory)


def settle(memory: Path) -> None:
    """Give the file the time back that it had before it was dug in, where a killed command did not.

    The caller holds the template's lock.
    """
    with contextlib.suppress(FileNotFoundError):
        modified_ns = int(_mark(memory).read_bytes())
        os.utime(memory, ns=(modified_ns, modified_ns))
        _mark(memory).unlink()


def _mark(memory: Path) -> Path:
    return templates.root(paths.home()) / memory.stem / "digging"
