"""Going inside a running machine: commands whose output we keep, files in and out, processes."""

from __future__ import annotations

import contextlib
import os
import tarfile
import tempfile
import time
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

from host import archives
from host.errors import BadData, Failure, NotFound, Unsupported, from_os_error
from host.exec_request import ExecRequest
from host.stdio import Stdio
from vmm import access

if TYPE_CHECKING:
    from vmm.machine import Machine

_PATH = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",)
_NOT_FOUND = 127


def run(
    machine: Machine, argv: tuple[str, ...], input_file: IO[bytes] | None = None, first_only: bool = False
) -> tuple[int, bytes]:
    """Run a command in the machine; its status and what it said on stdout (nobody reads its stderr).

    `first_only` asks by the machine's first way alone, for a look that must be short.
    """
    with tempfile.TemporaryFile() as said:
        status = _run(machine, argv, input_file, said.fileno(), first_only)
        said.seek(0)
        return status, said.read()


def _run(
    machine: Machine,
    argv: tuple[str, ...],
    input_file: IO[bytes] | None,
    out_fd: int,
    first_only: bool = False,
    error_fd: int | None = None,
) -> int:
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        stdin = null if input_file is None else input_file.fileno()
        stderr = null if error_fd is None else error_fd
        stdio = Stdio(stdin, out_fd, stderr, interactive=input_file is not None)
        request = ExecRequest(argv, _PATH, interactive=input_file is not None)
        return access.execute(machine, request, stdio, first_only)
    finally:
        os.close(null)


def top(machine: Machine) -> list[list[str]]:
    """The processes inside, as the guest's own ps tells them: header first."""
    status, said = run(machine, ("ps", "-ef"))
    if status:
        raise Unsupported("cannot list the processes of", machine.folder.name, "its image has no ps")
    rows = said.decode(errors="replace").splitlines()
    columns = len(rows[0].split()) if rows else 0
    return [row.split(None, columns - 1) for row in rows if row.strip()]


def _by_sftp(machine: Machine) -> bool:
    """Whether SSH is the first way in: our helper carries an archive instead, which keeps more of a file."""
    able = access.ways(machine)
    return bool(able) and able[0].name == "ssh"


def copy_in(machine: Machine, source: Path, target: str) -> None:
    """Copy a file or a tree into the machine; into `target` where that is a folder, else as it."""
    if _by_sftp(machine):
        from vmm import ssh

        with ssh.sftp(machine) as client:
            ssh.put(client, source, target)
        return
    is_folder = run(machine, ("test", "-d", target))[0] == 0
    parent, name = (target, source.name) if is_folder else _split(target)
    with tempfile.TemporaryFile() as archive:
        try:
            with tarfile.open(fileobj=archive, mode="w") as tar:
                tar.add(source, arcname=name)
        except OSError as error:
            raise from_os_error("cannot read", error, str(source)) from None
        archive.seek(0)
        _unpacked(machine, run(machine, ("tar", "-xf", "-", "-C", parent), archive)[0], parent)


def _split(target: str) -> tuple[str, str]:
    path = PurePosixPath(target)
    return str(path.parent), path.name


def _unpacked(machine: Machine, status: int, where: str) -> None:
    if status == _NOT_FOUND:
        raise Unsupported(
            "cannot copy with", machine.folder.name, "its image has no tar", hint="vmm exec -i NAME ..."
        )
    if status:
        raise Failure("cannot copy to", f"{machine.folder.name}:{where}", f"tar inside ended with {status}")


def copy_out(machine: Machine, source: str, target: Path) -> None:
    """Copy a file or a tree out of the machine; into `target` where that is a folder, else as it."""
    if _by_sftp(machine):
        from vmm import ssh

        with ssh.sftp(machine) as client:
            ssh.get(client, source, target)
        return
    parent, name = _split(source)
    with tempfile.TemporaryFile() as archive, tempfile.TemporaryFile() as words:
        pack = ("tar", "-cf", "-", "-C", parent, name)
        status = _run(machine, pack, None, archive.fileno(), error_fd=words.fileno())
        if status == _NOT_FOUND:
            _unpacked(machine, status, source)
        if status:
            words.seek(0)
            why = words.read().decode(errors="replace").partition("\n")[0] or f"tar ended with {status}"
            raise NotFound("cannot copy", f"{machine.folder.name}:{source}", why)
        archive.seek(0)
        place = target / name if target.is_dir() else target
        _take_out(archive, name, place)


def _take_out(archive: IO[bytes], name: str, place: Path) -> None:
    """Unpack beside the place and move there: the guest's archive is not trusted with paths of ours."""
    with contextlib.ExitStack() as cleanup:
        folder = cleanup.enter_context(tempfile.TemporaryDirectory(prefix=".vmm-cp-", dir=place.parent))
        try:
            with tarfile.open(fileobj=archive) as tar:
                archives.unpack(tar, folder)
        except tarfile.TarError as error:
            raise BadData("cannot copy", name, f"the guest's archive: {error}") from None
        try:
            os.replace(Path(folder, name), place)
        except OSError as error:
            raise from_os_error("cannot write", error, str(place)) from None


def exec_detached(machine: Machine, request: ExecRequest) -> None:
    """Start a command and come back once it runs; nobody keeps what it says."""
    from vmm import channel as channels
    from vmm import frames

    with machine.channel() as channel:
        id_ = channel.begin(request._replace(tty=False, interactive=False))
        deadline = time.monotonic() + 30.0
        while True:
            for frame in channel.receive(deadline, "cannot start the command"):
                if frame.id == id_ and frame.type == frames.STARTED:
                    return
                if frame.id == id_ and frame.type == frames.EXIT:
                    raise channels.failed_start(frame.payload, request)
