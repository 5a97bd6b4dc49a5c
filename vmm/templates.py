"""Templates: machines frozen with their memory, from which clones start; what they are kept as, and found by.

A template is a folder `$VMM_HOME/templates/NAME`: `template.json`, `state` (the devices), `disk.qcow2` (what
the guest wrote until it was frozen), `overlay.qcow2` (an empty layer over it, for clones by name). The
memory lies in /dev/shm, where reading costs no disk: after a reboot of the host it is gone, and the template
with it.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from host import paths, records
from host.errors import BadData, InUse, NotFound
from images.blobs import sha256
from vmm import launch, ports
from vmm.qemu_argv import argv
from vmm.spec import KERNEL_BOOTS, Command, Forward, MachineSpec, replace

SCHEMA_VERSION = 1
RECORD = "template.json"
POOL = "pool.json"  # beside it, where paused clones are kept (vmm.pool)
LARGEST_AUTOMATIC_BYTES = 1 << 30
LEAVE_MEMORY_OUT = launch.LEAVE_MEMORY_OUT


class Template(NamedTuple):
    """A frozen machine on disk; `files` holds name -> (size, mtime ns) as they were when it was frozen.

    `ports` are the names of its virtio-serial ports; empty: those of its birth.
    """

    name: str
    key: str
    folder: Path
    memory: Path
    memory_bytes: int
    automatic: bool
    image: str
    image_digest: str
    created_unix_s: float
    took_s: float
    after_boot_s: float
    files: dict[str, tuple[int, int]]
    spec: dict[str, object]
    ports: tuple[str, ...] = ()

    @property
    def state(self) -> Path:
        """The devices' state, as QEMU's migration stream."""
        return self.folder / "state"

    @property
    def disk(self) -> Path:
        """The disk as it was frozen."""
        return self.folder / "disk.qcow2"

    @property
    def overlay(self) -> Path:
        """An empty qcow2 over the frozen disk."""
        return self.folder / "overlay.qcow2"


# ---- where they lie ----


def root(home: Path) -> Path:
    """The folder of a home's templates."""
    return home / "templates"


def memory_dir(home: Path) -> Path:
    """Where frozen memory lies: /dev/shm, or the run directory where there is none."""
    shm = Path("/dev/shm")
    if os.access(shm, os.W_OK):
        return shm / f"vmm-{paths.run_dir(home).name}"
    return paths.run_dir(home) / "memory"


def pool_file(home: Path, key: str) -> Path:
    """The file that names the template whose pool has machines of a key."""
    return root(home) / f".{key}.pool"


# ---- what a template must share with its clones ----


def why_not(spec: MachineSpec) -> str:
    """Why no template can serve this machine, or an empty string."""
    if spec.boot not in KERNEL_BOOTS:
        return "templates want a kernel that QEMU loads"
    if spec.uri or spec.autostart:
        return "another libvirt, or a start without us, knows no memory of ours"
    if spec.shares:
        return "a shared folder's state lies on the host"
    if spec.tpm or spec.vmgenid:
        return "a device of it is its own from the first moment"
    if any(nic.kind != "user" for nic in spec.nics):
        return "its network card has an address of its own from the first moment"
    if len(spec.disks) != 1 or spec.disks[0].format != "qcow2":
        return "its disk is no thin layer over the image's"
    return ""


def why_not_automatic(spec: MachineSpec) -> str:
    """Why `vmm run` makes no template of its own for this machine, or an empty string."""
    if not spec.command_mode or spec.seed or spec.display or spec.balloon:
        return "only a plain machine in command mode is frozen by itself"
    if spec.memory_bytes > LARGEST_AUTOMATIC_BYTES:
        return "its memory is larger than 1 GiB"
    return why_not(spec)


def neutral(spec: MachineSpec, disk: str) -> MachineSpec:
    """The machine without what makes it one of many: its name, command, forwards and disk."""
    return replace(
        spec,
        name="template",
        uuid="",
        hostname="template",
        accel="auto",
        command=Command(),
        disks=(replace(spec.disks[0], path=disk),),
        nics=tuple(replace(nic, forwards=_ssh_only(spec)) for nic in spec.nics),
        # free page reporting of one clone would punch holes into the memory file of all (QEMU 7.2: even
        # where the mapping is private)
        balloon=False,
        cloneable=False,  # its memory is a file's in any case
        # where memory can be plugged libvirt makes all of it itself, and has no word for a file at our path
        max_memory_bytes=0 if spec.driver == "libvirt" else spec.max_memory_bytes,
        ephemeral=False,
        template="",
    )


def _ssh_only(spec: MachineSpec) -> tuple[Forward, ...]:
    """In system mode the way by which its sshd is seen; a forward is QEMU's own, no part of the machine."""
    return () if spec.command_mode else (Forward(host=0, guest=22),)


def key(spec: MachineSpec, accel: str, base: tuple[str, int]) -> str:
    """The digest of all that a template and its clones must have in common.

    That is QEMU's arguments, and the identity of the files behind them: QEMU itself, kernel, initramfs (and
    with it the helper), and the base disk with the size that the machine sees.
    """
    path, size_bytes = base
    how = launch.here(Path("RUN"), Path("FOLDER"), accel, spec.arch)
    words = argv(neutral(spec, path), replace(how, ports=ports.frozen(spec)))
    files = [_found(how.qemu), spec.kernel, spec.initrd, path]
    told = [f"{file} {_identity(file)}" for file in files]
    text = "\0".join([spec.driver, *words, *told, str(size_bytes)])
    return sha256(text.encode()).removeprefix("sha256:")[:24]


def _found(program: str) -> str:
    """Where PATH has the program (shutil.which would load compressors for it)."""
    for folder in os.environ.get("PATH", os.defpath).split(":"):
        path = os.path.join(folder, program)
        if os.access(path, os.X_OK):
            return path
    return program


def _identity(path: str) -> str:
    try:
        told = os.stat(path)
    except OSError:
        return "-"
    return f"{told.st_size} {told.st_mtime_ns} {told.st_ino}"


def backing(disk: Path) -> tuple[str, int]:
    """The backing file of a qcow2 and the size that the guest sees (docs/interop/qcow2.txt, the header)."""
    with open(disk, "rb") as file:
        head = file.read(32).ljust(32, b"\0")
        magic, _, offset, length, _, size_bytes = struct.unpack(">4sIQIIQ", head)
        if magic != b"QFI\xfb" or not offset:
            raise BadData("cannot use the disk", str(disk), "not a qcow2 over a base")
        file.seek(offset)
        return file.read(length).decode(), size_bytes


def bottom(disk: Path) -> Path:
    """The image's disk at the lower end of a chain of layers."""
    while True:
        try:
            disk = Path(backing(disk)[0])
        except BadData:
            return disk


# ---- found, checked, listed, removed ----


def load(home: Path, name: str) -> Template:
    """The template of that name or key; raises NotFound."""
    folder = root(home) / name
    try:
        record = records.read(folder / RECORD)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound("no template", repr(name), hint="vmm template ls lists them") from None
    return Template(
        name=folder.name,
        key=record["key"],
        folder=folder,
        memory=Path(record["memory"]),
        memory_bytes=record["memory_bytes"],
        automatic=record["automatic"],
        image=record["image"],
        image_digest=record["image_digest"],
        created_unix_s=record["created_unix_s"],
        took_s=record["took_s"],
        after_boot_s=record.get("after_boot_s", 0.0),  # not in records before 2026-11
        files={file: (told[0], told[1]) for file, told in record["files"].items()},
        spec=record["spec"],
        ports=tuple(record.get("ports", ())),
    )


def save(template: Template) -> None:
    """Write the record: from here on the template exists."""
    record = {name: value for name, value in template._asdict().items() if name not in ("folder", "name")}
    record["memory"] = str(template.memory)
    records.write(template.folder / RECORD, {"schema_version": SCHEMA_VERSION, **record})


def fingerprint(folder: Path, memory: Path) -> dict[str, tuple[int, int]]:
    """Size and mtime of the template's own files."""
    own = (memory, folder / "state", folder / "disk.qcow2", folder / "overlay.qcow2")
    return {path.name: _size_and_mtime(path) for path in own}


def login_key(name: str) -> Path:
    """The login key that a template of a whole system lets in; one of before 2026-11-29 has none."""
    from vmm import ssh

    return root(paths.home()) / name / ssh.KEY


def foundations(spec: MachineSpec) -> dict[str, tuple[int, int]]:
    """Size and mtime of what is not the template's own but must stay as it was: QEMU and the base disk.

    The frozen memory holds blocks of that disk, and the frozen devices are those of that QEMU.
    """
    qemu = _found(launch.here(Path(), Path(), "tcg", spec.arch).qemu)
    return {path: _size_and_mtime(Path(path)) for path in (qemu, backing(Path(spec.disks[0].path))[0])}


def _size_and_mtime(path: Path) -> tuple[int, int]:
    told = path.stat()
    return told.st_size, told.st_mtime_ns


def damage(template: Template) -> str:
    """What is wrong with the template's files, or an empty string: a clone of changed memory would crash."""
    try:
        now = fingerprint(template.folder, template.memory)
        now |= {path: _size_and_mtime(Path(path)) for path in template.files if path.startswith("/")}
    except FileNotFoundError as error:
        if str(error.filename) == str(template.memory):
            return "its memory is gone: the host was started anew since, or somebody removed it"
        return f"{error.filename} is gone"
    changed = [name for name, told in template.files.items() if now.get(name) != told]
    return f"{', '.join(changed)} changed since it was frozen" if changed else ""


def every(home: Path) -> list[Template]:
    """All templates of the home, the oldest first."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(root(home)):
            with contextlib.suppress(NotFound, BadData, KeyError):
                found.append(load(home, entry.name))
    return sorted(found, key=lambda one: one.created_unix_s)


def remove(home: Path, name: str) -> None:
    """Remove a template and its memory; clones that run keep what they have mapped and opened.

    Raises InUse where the disk of a machine is a layer over the template's.
    """
    import shutil

    with locked(home, name):
        users = standing_on(home, name)
        if users:
            hint = f"{removals(users)} first"
            raise InUse("cannot remove the template", repr(name), "disks stand on it", hint)
        memory = memory_dir(home) / f"{name}.memory"
        folder = root(home) / name
        if (folder / POOL).exists():
            from vmm import pool

            pool.forget(home, load(home, name))
        with contextlib.suppress(FileNotFoundError):
            (folder / RECORD).unlink()
        with contextlib.suppress(FileNotFoundError):
            memory.unlink()
        shutil.rmtree(folder, ignore_errors=True)


def standing_on(home: Path, name: str) -> list[str]:
    """The machines whose disk is a layer over this template's, and other templates as `template NAME`."""
    found, frozen = [], str(root(home) / name / "disk.qcow2")
    for folder, word in ((paths.instances_dir(home), ""), (root(home), "template ")):
        for disk in folder.glob("*/disk.qcow2"):
            with contextlib.suppress(OSError, BadData):
                if backing(disk)[0] == frozen:
                    found.append(f"{word}{disk.parent.name}")
    return sorted(found)


def removals(users: list[str]) -> str:
    """The commands that take away machines and templates (`template NAME`) that stand in the way."""
    frozen = [one.removeprefix("template ") for one in users if one.startswith("template ")]
    plain = [one for one in users if not one.startswith("template ")]
    both = (("vmm rm", plain), ("vmm template rm", frozen))
    return "; ".join(" ".join([words, *names]) for words, names in both if names)


@contextlib.contextmanager
def locked(home: Path, name: str, wait_s: float = 300.0) -> Iterator[None]:
    """The lock of one template's making: of two commands that want it, one builds and the other waits."""
    with records.lock(root(home) / f".{name}.lock", wait_s):
        yield


def sweep(home: Path) -> list[str]:
    """Remove what killed commands left half made, and memory without a template; what was removed."""
    import shutil

    gone = []
    with contextlib.suppress(FileNotFoundError):
        for folder in root(home).iterdir():
            if folder.is_dir() and not (folder / RECORD).exists() and _free(home, folder.name):
                _sweep_builder(home, folder.name)
                shutil.rmtree(folder, ignore_errors=True)
                gone.append(str(folder))
    with contextlib.suppress(FileNotFoundError):
        for memory in memory_dir(home).glob("*.memory"):
            name = memory.name.removesuffix(".memory")
            if not (root(home) / name / RECORD).exists() and _free(home, name):
                memory.unlink(missing_ok=True)
                gone.append(str(memory))
    return gone


def builder_run(home: Path, name: str) -> Path:
    """The run directory of the machine that becomes a template."""
    return paths.run_dir(home) / f".t-{name[:12]}"


def _sweep_builder(home: Path, name: str) -> None:
    """What a killed builder's machine held: QEMU itself died with it."""
    import shutil

    from host.linux.cgroup import Cgroup

    shutil.rmtree(builder_run(home, name), ignore_errors=True)
    with contextlib.suppress(OSError):
        Cgroup(f"{paths.run_dir(home).name}-{name}").remove()


def _free(home: Path, name: str) -> bool:
    from host.errors import DeadlinePassed

    try:
        with locked(home, name, wait_s=0):
            return True
    except DeadlinePassed:
        return False


def now_unix_s() -> float:
    """The time for records."""
    return round(time.time(), 3)
