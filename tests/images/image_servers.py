"""A real registry on loopback, and a real dockerd in a network of its own, for the tests of images."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from capabilities import need

USER, PASSWORD = "teacher", "chalk & board"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(what: Callable[[], bool], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, "it never came up"
        time.sleep(0.05)


def answers(port: int, enter: tuple[str, ...] = ()) -> bool:
    if enter:
        probe = [*enter, "bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{port}"]
        return subprocess.run(probe, capture_output=True, check=False).returncode == 0
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@contextlib.contextmanager
def docker_registry(
    folder: Path, extra: str = "", tls: str = "", enter: tuple[str, ...] = ()
) -> Iterator[str]:
    """docker-registry on a loopback port, as HOST:PORT."""
    need("docker-registry")
    port = free_port()
    config = folder / "config.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {folder}/data}}}}\n"
        f'http:\n  addr: "127.0.0.1:{port}"\n{tls}{extra}'
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*enter, "docker-registry", "serve", config], stdout=log, stderr=log)
    try:
        wait_for(lambda: answers(port, enter))
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


class Docker:
    """A dockerd in its own network and mount namespace; `enter` runs a command beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.socket = folder, folder / "s"
        script = (
            f"ip link set lo up; exec dockerd --data-root {folder}/data --exec-root {folder}/exec "
            f"-H unix://{self.socket} --pidfile {folder}/pid --exec-opt native.cgroupdriver=cgroupfs "
            "-s overlay2"
        )
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                ["unshare", "-n", "-m", "sh", "-c", script], stdout=log, stderr=log, start_new_session=True
            )
        try:
            wait_for(self.ready, 60)
        except BaseException:
            self.stop()
            raise

    def ready(self) -> bool:
        assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.connect(str(self.socket))
            connection.request("GET", "/_ping")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def __call__(self, *words: str, input: bytes | None = None) -> str:
        argv = ["docker", "-H", f"unix://{self.socket}", *words]
        done = subprocess.run(argv, input=input, capture_output=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def enter(self, *argv: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
        """Run a command in dockerd's network."""
        words = [*self.enter_argv(), *argv]
        return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False, **options)  # type: ignore[call-overload,no-any-return]

    def enter_argv(self) -> tuple[str, ...]:
        """The words before a command that shall run in dockerd's network."""
        return ("nsenter", "-t", str(self.process.pid), "-n")

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
