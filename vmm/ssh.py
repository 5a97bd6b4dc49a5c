"""SSH into a machine: its own key, its host key pinned at first sight, commands, and files by SFTP.

Source: RFC 4254 (sessions, exit status, window size); paramiko is loaded only here.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from host.errors import DeadlinePassed, Failure, NotFound
from host.exec_request import ExecRequest
from host.stdio import Stdio

if TYPE_CHECKING:
    import paramiko

    from vmm.machine import Machine

KEY = "ssh_key"  # in the instance's folder, with its public half beside it
_PINNED = "host_key"
_ADDRESS = "ssh-port"
_CHUNK_BYTES = 32 << 10
_CONNECT_S = 10.0


class HostKeyChanged(Failure):
    """The machine shows another host key than the one that it was first seen with."""

    final = True  # another way in must not hide this


# ---- keys and addresses ----


def make_key(folder: Path, name: str, lent: Path | None = None) -> str:
    """Make the machine's own ed25519 key in its folder on first use, or copy the `lent` one, where there is
    that; the public half's line."""
    from host import commands

    path = folder / KEY
    if lent and lent.exists():
        import shutil

        for source in (lent, lent.with_name(f"{KEY}.pub")):
            shutil.copy(source, folder)
    if not path.exists():
        words = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"vmm@{name}", "-f", str(path))
        commands.run(words, "cannot make the machine's key", timeout_s=30)
    return path.with_name(f"{KEY}.pub").read_text().strip()


def key_of(machine: Machine) -> Path:
    """The private key that opens this machine."""
    return Path(machine.spec.ssh_key) if machine.spec.ssh_key else machine.folder / KEY


def note_address(run: Path, host: str, port: int) -> None:
    """Keep where the guest's sshd is reached: `vmm ls` must not ask QEMU for it each time."""
    (run / _ADDRESS).write_text(f"{host}:{port}")


def address(run: Path) -> tuple[str, int] | None:
    """Host and port of the guest's sshd as seen from here, or None where nothing leads there."""
    try:
        host, _, port = (run / _ADDRESS).read_text().strip().rpartition(":")
    except OSError:
        return None
    return (host or "127.0.0.1", int(port)) if port.isdigit() and int(port) else None


def why_not(machine: Machine) -> str:
    """Why nobody can log in to this machine, or an empty string."""
    if not key_of(machine).is_file():
        return "we have no key for it"
    return "" if address(machine.run_dir) else "no port of this host leads to it"


# ---- a connection ----


@contextlib.contextmanager
def connected(machine: Machine, timeout_s: float = _CONNECT_S) -> Iterator[paramiko.Transport]:
    """A connection, logged in. DeadlinePassed where none can be had, HostKeyChanged for another host key."""
    import paramiko

    name, where = machine.folder.name, address(machine.run_dir)
    if where is None:
        raise DeadlinePassed("cannot log in to", name, "no port of this host leads to it")
    _silence()
    try:
        transport = paramiko.Transport(socket.create_connection(where, timeout_s))
    except (paramiko.SSHException, OSError) as error:
        raise DeadlinePassed("cannot connect to sshd of", name, str(error)) from None
    try:
        _log_in(machine, transport, timeout_s)
        yield transport
    finally:
        transport.close()


def _silence() -> None:
    """paramiko logs the tracebacks of its own thread, which without a handler end on stderr."""
    import logging

    logging.getLogger("paramiko").addHandler(logging.NullHandler())


def _log_in(machine: Machine, transport: paramiko.Transport, timeout_s: float) -> None:
    import paramiko

    transport.banner_timeout = transport.auth_timeout = timeout_s
    try:
        transport.start_client(timeout=timeout_s)
        _pin(machine, transport.get_remote_server_key())
        transport.auth_publickey(user(machine), paramiko.PKey.from_path(key_of(machine)))
    except (paramiko.SSHException, EOFError, OSError) as error:
        raise DeadlinePassed("cannot log in to", machine.folder.name, str(error) or "it hung up") from None


def user(machine: Machine) -> str:
    """Whom we log in as."""
    return machine.spec.ssh_user or "root"


def _pin(machine: Machine, shown: paramiko.PKey) -> None:
    # By machine, not by address: the host's port is another one after each start.
    pinned, line = machine.folder / _PINNED, f"{shown.get_name()} {shown.get_base64()}\n"
    try:
        known = pinned.read_text()
    except FileNotFoundError:
        pinned.write_text(line)
        return
    if known != line:
        why, hint = f"it shows another host key than the one in {pinned}", f"if you changed it: rm {pinned}"
        raise HostKeyChanged("refused to log in to", machine.folder.name, why, hint)


# ---- commands ----


@contextlib.contextmanager
def enter(machine: Machine) -> Iterator[Callable[[ExecRequest, Stdio], int]]:
    """A way in by SSH: what it yields runs one command."""
    with connected(machine) as transport:
        yield lambda request, stdio: _run(transport, user(machine), request, stdio)


def command_line(request: ExecRequest, login: str) -> str:
    """The request as a line for the login's shell, which turns a death by signal into 128 + n."""
    words = ["env", *request.env, *request.argv]  # with env the statuses 126 and 127 are exact, by sudo too
    wanted = request.user or "root"
    if wanted != login:
        name, _, group = wanted.partition(":")
        words = ["sudo", "-n", "-u", name, *(("-g", group) if group else ()), "--", *words]
    into = f"cd {shlex.quote(request.cwd)} || exit 125; " if request.cwd else ""
    return f"{into}{shlex.join(words)}; exit $?"  # the last word keeps the shell from becoming the command


def _run(transport: paramiko.Transport, login: str, request: ExecRequest, stdio: Stdio) -> int:
    from vmm import console

    session = transport.open_session()
    raw = console.raw(stdio.stdin) if request.tty else contextlib.nullcontext()
    with raw:
        if request.tty:
            session.get_pty(os.environ.get("TERM", "xterm"), *_size(request, stdio))
        session.exec_command(command_line(request, login))
        return _pump(session, request, stdio)


def _size(request: ExecRequest, stdio: Stdio) -> tuple[int, int]:
    """Columns and rows."""
    if request.cols and request.rows:
        return request.cols, request.rows
    try:
        columns, rows = os.get_terminal_size(stdio.stdin)
    except OSError:
        return 80, 24
    return columns, rows


def _pump(session: paramiko.Channel, request: ExecRequest, stdio: Stdio) -> int:
    poll = select.poll()
    poll.register(session, select.POLLIN)
    if request.interactive:
        poll.register(stdio.stdin, select.POLLIN)
    else:
        session.shutdown_write()
    size = _size(request, stdio)
    while True:
        for fd, _ in poll.poll(100):
            if fd == stdio.stdin and request.interactive and not _pass_input(session, fd):
                poll.unregister(fd)
        _drain(session, stdio)
        if request.tty and (now := _size(request, stdio)) != size:
            session.resize_pty(*now)
            size = now
        if session.exit_status_ready() and not session.recv_ready() and not session.recv_stderr_ready():
            return session.recv_exit_status()


def _pass_input(session: paramiko.Channel, fd: int) -> bool:
    data = os.read(fd, _CHUNK_BYTES)
    if data:
        session.sendall(data)
    else:
        session.shutdown_write()
    return bool(data)


def _drain(session: paramiko.Channel, stdio: Stdio) -> None:
    while session.recv_ready():
        _write(stdio.stdout, session.recv(_CHUNK_BYTES))
    while session.recv_stderr_ready():
        _write(stdio.stderr, session.recv_stderr(_CHUNK_BYTES))


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


# ---- files ----


@contextlib.contextmanager
def sftp(machine: Machine) -> Iterator[paramiko.SFTPClient]:
    """An SFTP conversation; its refusals are told with the machine's name."""
    import paramiko

    with connected(machine) as transport:
        client = paramiko.SFTPClient.from_transport(transport)
        if client is None:
            raise DeadlinePassed("cannot copy with", machine.folder.name, "its sshd knows no SFTP")
        try:
            yield client
        except FileNotFoundError as error:
            raise NotFound("cannot copy with", machine.folder.name, str(error)) from None
        except PermissionError as error:
            raise Failure("cannot copy with", machine.folder.name, f"{error}, as {user(machine)}") from None
        finally:
            client.close()


def put(client: paramiko.SFTPClient, source: Path, target: str) -> None:
    """Copy a file or a tree to the machine; into `target` where that is a folder, else as it."""
    place = str(PurePosixPath(target, source.name)) if _is_folder(client, target) else target
    _put(client, source, place)


def _put(client: paramiko.SFTPClient, source: Path, place: str) -> None:
    if source.is_symlink():
        client.symlink(os.readlink(source), place)
    elif source.is_dir():
        if not _is_folder(client, place):
            client.mkdir(place)
        for child in sorted(source.iterdir()):
            _put(client, child, f"{place}/{child.name}")
    else:
        client.put(str(source), place)
        client.chmod(place, stat.S_IMODE(source.stat().st_mode))


def get(client: paramiko.SFTPClient, source: str, target: Path) -> None:
    """Copy a file or a tree from the machine; into `target` where that is a folder, else as it."""
    _get(client, source, target / PurePosixPath(source).name if target.is_dir() else target)


def _get(client: paramiko.SFTPClient, source: str, place: Path) -> None:
    mode = client.lstat(source).st_mode or 0
    if stat.S_ISLNK(mode):
        place.symlink_to(client.readlink(source) or "")
    elif stat.S_ISDIR(mode):
        place.mkdir(exist_ok=True)
        for name in client.listdir(source):
            if "/" not in name and name not in (".", ".."):  # the guest is not trusted with paths of ours
                _get(client, f"{source}/{name}", place / name)
    else:
        client.get(source, str(place))
        place.chmod(stat.S_IMODE(mode) & 0o777)


def _is_folder(client: paramiko.SFTPClient, path: str) -> bool:
    try:
        return stat.S_ISDIR(client.stat(path).st_mode or 0)
    except FileNotFoundError:
        return False
