"""Ways into a running machine, tried in order: our helper, SSH, the QEMU guest agent; which one is said.

The serial console is the last way, and a person's: `vmm console`.
"""

from __future__ import annotations

import base64
import json
import os
import select
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from host.errors import DeadlinePassed, Failure, HostUnfit, Unsupported
from host.exec_request import ExecRequest
from host.stdio import Stdio
from vmm import process

if TYPE_CHECKING:
    import paramiko

    from vmm.machine import Machine

_CHUNK_BYTES = 32 << 10
_AGENT_S = 5.0


def execute(machine: Machine, request: ExecRequest, stdio: Stdio) -> int:
    """Run a command by the first way that answers; its exit status. Raises Failure that tells every way
    tried."""
    tried: list[str] = []
    for way, able, run in (
        ("guest helper", bool(machine.spec.kernel), _by_helper),
        ("ssh", key_of(machine).is_file() and ssh_port(machine) > 0, _by_ssh),
        ("guest agent", machine.spec.agent, _by_agent),
    ):
        if not able:
            tried.append(f"{way}: this machine has none")
            continue
        try:
            return run(machine, request, stdio)
        except (DeadlinePassed, HostUnfit, ConnectionError, TimeoutError) as error:
            tried.append(f"{way}: {error}")
    name = machine.folder.name
    raise Unsupported("no way into", name, "; ".join(tried), f"vmm console {name} is its serial port")


def way(machine: Machine) -> str:
    """The way that `execute` tries first."""
    if machine.spec.kernel:
        return "guest helper"
    return "ssh" if key_of(machine).is_file() and ssh_port(machine) else "guest agent"


def _by_helper(machine: Machine, request: ExecRequest, stdio: Stdio) -> int:
    with machine.channel() as channel:
        return channel.run(request, stdio)


# ---- SSH ----


def key_of(machine: Machine) -> Path:
    """The private key that this machine was made with."""
    return Path(machine.spec.ssh_key) if machine.spec.ssh_key else machine.folder / "ssh_key"


def ssh_port(machine: Machine) -> int:
    """The host's port that leads to the guest's sshd, or 0."""
    try:
        return int((machine.run_dir / "ssh-port").read_text())
    except (OSError, ValueError):
        return 0


def ssh(machine: Machine, timeout_s: float = 10.0) -> paramiko.SSHClient:
    """A connection as the machine's user; its host key is kept at first sight and must stay the same."""
    import paramiko

    client = paramiko.SSHClient()
    pinned = machine.folder / "known_hosts"
    pinned.touch()
    client.load_host_keys(str(pinned))
    client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    try:
        client.connect(
            "127.0.0.1",
            ssh_port(machine),
            username=machine.spec.ssh_user or "root",
            key_filename=str(key_of(machine)),
            timeout=timeout_s,
            banner_timeout=timeout_s,
            allow_agent=False,
            look_for_keys=False,
        )
    except (paramiko.SSHException, OSError) as error:
        client.close()
        raise DeadlinePassed("cannot log in to", machine.folder.name, str(error)) from None
    return client


def _by_ssh(machine: Machine, request: ExecRequest, stdio: Stdio) -> int:
    import shlex

    words = " ".join(shlex.quote(word) for word in request.argv)
    before = f"cd {shlex.quote(request.cwd)} && " if request.cwd else ""
    with ssh(machine) as client:
        transport = client.get_transport()
        assert transport is not None
        session = transport.open_session()
        session.exec_command(f"{before}exec env {' '.join(map(shlex.quote, request.env))} {words}")
        return _pump(session, request, stdio)


def _pump(session: paramiko.Channel, request: ExecRequest, stdio: Stdio) -> int:
    poll = select.poll()
    poll.register(session, select.POLLIN)
    if request.interactive:
        poll.register(stdio.stdin, select.POLLIN)
    else:
        session.shutdown_write()
    while True:
        for fd, _ in poll.poll(100):
            if fd == stdio.stdin and request.interactive:
                data = os.read(fd, _CHUNK_BYTES)
                if data:
                    session.sendall(data)
                else:
                    poll.unregister(fd)
                    session.shutdown_write()
        _drain(session, stdio)
        if session.exit_status_ready() and not session.recv_ready() and not session.recv_stderr_ready():
            return session.recv_exit_status()


def _drain(session: paramiko.Channel, stdio: Stdio) -> None:
    while session.recv_ready():
        os.write(stdio.stdout, session.recv(_CHUNK_BYTES))
    while session.recv_stderr_ready():
        os.write(stdio.stderr, session.recv_stderr(_CHUNK_BYTES))


# ---- QEMU guest agent ----


class Agent:
    """A conversation with qemu-ga over its socket (QEMU Guest Agent Protocol Reference)."""

    def __init__(self, path: Path, timeout_s: float = _AGENT_S) -> None:
        try:
            self._line = process.call(path)
        except OSError as error:
            raise DeadlinePassed("cannot reach the guest agent", why=error.strerror or "") from None
        self._line.settimeout(timeout_s)
        self._file = self._line.makefile("rb")
        try:
            # What an earlier client left half said ends at 0xff; the answer with our number is the first of
            # ours.
            number = time.monotonic_ns() & 0x7FFFFFFF
            self._line.sendall(b"\xff")
            self._ask("guest-sync-delimited", {"id": number}, number)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Hang up."""
        self._file.close()
        self._line.close()

    def _ask(self, command: str, arguments: dict[str, Any], wanted: object = None) -> Any:
        request = {"execute": command, "arguments": arguments}
        try:
            self._line.sendall(json.dumps(request).encode() + b"\n")
            while True:
                reply = json.loads(self._file.readline().lstrip(b"\xff") or b"{}")
                if "error" in reply:
                    raise Failure(f"the guest agent refused {command}", why=reply["error"].get("desc", ""))
                if not reply:
                    raise DeadlinePassed("the guest agent hung up")
                if wanted is None or reply.get("return") == wanted:
                    return reply["return"]
        except TimeoutError:
            raise DeadlinePassed("the guest agent did not answer", why=f"after {_AGENT_S:g} s") from None

    def run(self, argv: tuple[str, ...], env: tuple[str, ...]) -> tuple[int, bytes, bytes]:
        """Run a command to its end; status, stdout, stderr."""
        asked = {"path": argv[0], "arg": list(argv[1:]), "env": list(env), "capture-output": True}
        pid = self._ask("guest-exec", asked)["pid"]
        while not (told := self._ask("guest-exec-status", {"pid": pid}))["exited"]:
            time.sleep(0.05)
        out, err = (base64.b64decode(told.get(name, "")) for name in ("out-data", "err-data"))
        return told.get("exitcode", 128 + told.get("signal", 0)), out, err


def _by_agent(machine: Machine, request: ExecRequest, stdio: Stdio) -> int:
    if request.tty or request.interactive:
        raise Unsupported("the guest agent takes no input and has no terminal", machine.folder.name)
    agent = Agent(machine.run_dir / "agent")
    try:
        status, out, err = agent.run(request.argv, request.env)
    finally:
        agent.close()
    os.write(stdio.stdout, out)
    os.write(stdio.stderr, err)
    return status
