"""A whole machine as one file: its record, its disks with all that they stand on, kernel, seed, keys.

The file is a tar: `machine.json` first, then the files that it names. It holds the machine's private key.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from host import commands
from host.errors import BadData, WrongState
from instances import events, kinds, names, registry
from instances.registry import Instance

FORMAT = "vmm-machine"
VERSION = 1
_RECORD = "machine.json"
# Beside the disks: what else of the folder makes the machine what it is.
_KEPT = ("vars.fd", "ssh_key", "ssh_key.pub", "host_key", "seed.iso")
_SPEC_FILES = ("kernel", "initrd", "firmware_vars", "seed")
_MEMBER = re.compile(r"disk\d+\.(qcow2|iso)|vars\.fd|ssh_key(\.pub)?|host_key|seed\.iso|kernel|initrd")
_LARGEST_RECORD_BYTES = 1 << 20


class Imported(NamedTuple):
    """The machine that was made, and what of its description was left behind, in words."""

    instance: Instance
    left_out: tuple[str, ...]


# ---- out ----


def export(instance: Instance, sink: IO[bytes]) -> None:
    """Write a machine that stands still as a tar; snapshots stay behind. WrongState while it runs."""
    state = kinds.backend(instance).state()
    if state in kinds.RUNNING:
        raise WrongState("cannot export", instance.name, f"it is {state}", f"vmm stop {instance.name}")
    spec, files = _portable(instance)
    record = {**instance.to_record(), "format": FORMAT, "version": VERSION, "spec": spec}
    with tarfile.open(fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        _add_bytes(tar, _RECORD, json.dumps(record, indent=1).encode())
        for name, path in files.items():
            with _flattened(path) if name.startswith("disk") else contextlib.nullcontext(path) as whole:
                _add_file(tar, name, whole)


def _portable(instance: Instance) -> tuple[dict[str, Any], dict[str, Path]]:
    """The spec with names in the archive instead of paths, and the file behind each name."""
    spec = json.loads(json.dumps(instance.spec))
    files: dict[str, Path] = {}
    for number, disk in enumerate(spec["disks"]):
        name = f"disk{number}.iso" if disk["cdrom"] else f"disk{number}.qcow2"
        files[name] = Path(disk["path"])
        disk.update(path=name, format="raw" if disk["cdrom"] else "qcow2")
    for field in _SPEC_FILES:
        if spec[field]:
            files.setdefault(_name_of(field), Path(spec[field]))
            spec[field] = _name_of(field)
    for name in _KEPT:
        if (instance.folder / name).is_file():
            files.setdefault(name, instance.folder / name)
    return spec, files


def _name_of(field: str) -> str:
    return {"firmware_vars": "vars.fd", "seed": "seed.iso"}.get(field, field)


@contextlib.contextmanager
def _flattened(disk: Path) -> Iterator[Path]:
    if disk.suffix == ".iso":
        yield disk
        return
    with tempfile.TemporaryDirectory(prefix=".export-", dir=disk.parent) as folder:
        whole = Path(folder, "disk.qcow2")
        words = ("qemu-img", "convert", "-O", "qcow2", str(disk), str(whole))
        commands.run(words, "cannot export the disk", timeout_s=3600)
        yield whole


def _add_bytes(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o600
    tar.addfile(member, io.BytesIO(data))


def _add_file(tar: tarfile.TarFile, name: str, path: Path) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = path.stat().st_size, 0o600
    with path.open("rb") as file:
        tar.addfile(member, file)


# ---- in ----


def import_(path: Path, name: str | None) -> Imported:
    """Make the machine of an archive, under its own name or `name`; it is created and stands still.

    Nothing of the archive is trusted: only files that a machine has are taken, disks may name no others, and
    folders of this host are not shared again. BadData for what is no such archive, InUse for a taken name.
    """
    with _opened(path) as tar:
        record = _read_record(tar, path)
        wanted = names.check(name or str(record.get("name", "")))
        with registry.claim(wanted) as (identity, claimed, folder):
            present = {member.name for member in _unpacked(tar, folder, path)}
            spec, left_out = _settled(record, claimed, identity, folder, present, path)
            instance = _instance(record, identity, claimed, folder, spec)
            registry.save(instance)
        events.happened("imported", claimed, kinds.MACHINE, file=str(path))
        return Imported(instance, left_out)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(path, mode="r:") as tar:
            yield tar
    except (tarfile.TarError, EOFError) as error:
        hint = "vmm export NAME -o FILE writes one; a disk goes by vmm image import"
        raise BadData(
            "cannot import", str(path), f"it is no whole archive of a machine: {error}", hint
        ) from None


def _read_record(tar: tarfile.TarFile, path: Path) -> dict[str, Any]:
    member = tar.next()
    why = f"its first member is no {_RECORD}"
    if member is not None and member.name == _RECORD and member.size <= _LARGEST_RECORD_BYTES:
        file = tar.extractfile(member)
        try:
            record = json.loads(file.read() if file else b"")
            if record["format"] == FORMAT and isinstance(record["spec"], dict):
                if record["version"] == VERSION:
                    return dict(record)
                why = f"its version is {record['version']}, we know {VERSION}"
        except (ValueError, KeyError, TypeError) as error:
            why = f"its {_RECORD} is broken: {error}"
    raise BadData("cannot import", str(path), why, "vmm image import takes disks")


def _unpacked(tar: tarfile.TarFile, folder: Path, path: Path) -> Iterator[tarfile.TarInfo]:
    for member in tar:
        if member.name == _RECORD:
            continue
        file = tar.extractfile(member) if member.isreg() and _MEMBER.fullmatch(member.name) else None
        if file is None:
            raise BadData(
                "refused the archive", str(path), f"its member {member.name!r} is no file of a machine"
            )
        _write(file, folder / member.name, 0o600 if "key" in member.name else 0o644)
        yield member


def _write(source: IO[bytes], target: Path, mode: int) -> None:
    import shutil

    with target.open("xb") as sink:
        shutil.copyfileobj(source, sink, 1 << 20)
    target.chmod(mode)


def _settled(
    record: dict[str, Any], name: str, identity: str, folder: Path, present: set[str], path: Path
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The spec at home here: paths in its folder, an identity of its own, nothing of the old host."""
    from images import disks
    from vmm.spec import check, from_record

    told = record["spec"]

    def here(word: object) -> str:
        if not word:
            return ""
        if word not in present:
            raise BadData("refused the archive", str(path), f"its record names {word!r}, which is not in it")
        return str(folder / str(word))

    left_out = tuple(f"the shared folder {one['source']}" for one in told.get("shares", ()))
    uuid = names.uuid_of(identity)
    spec = {**told, **{field: here(told.get(field)) for field in _SPEC_FILES}}
    spec |= {"disks": [{**disk, "path": here(disk.get("path"))} for disk in told.get("disks", ())]}
    spec |= {
        "name": name,
        "uuid": uuid,
        "shares": [],
        "template": "",
        "firmware": "",
        "ssh_key": "",
        "uri": "",
    }
    try:
        made = check(from_record(spec))
    except (TypeError, KeyError, AttributeError) as error:
        raise BadData("refused the archive", str(path), f"its record describes no machine: {error}") from None
    for disk in made.disks:
        if not disk.cdrom and disks.trusted_format(Path(disk.path)) != disk.format:
            raise BadData("refused the archive", str(path), f"{Path(disk.path).name} is no {disk.format}")
    return made.to_record(), left_out


def _instance(
    record: dict[str, Any], identity: str, name: str, folder: Path, spec: dict[str, Any]
) -> Instance:
    return Instance(
        id=identity,
        name=name,
        kind=kinds.MACHINE,
        image=str(record.get("image", "")),
        image_digest=str(record.get("image_digest", "")),
        created_unix_s=registry.now_unix_s(),
        rm=False,
        command=tuple(map(str, record.get("command", ()))),
        labels={str(key): str(value) for key, value in dict(record.get("labels", {})).items()},
        volumes=(),
        spec=spec,
        folder=folder,
        run=registry.run_of(name),
    )
