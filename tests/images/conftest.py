"""A real registry on loopback, and a real dockerd in a network of its own."""

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

import pytest
from capabilities import need

from images import bases
from images.store import Store

USER, PASSWORD = "teacher", "chalk & board"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "home")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with tiny in it; tests do not change it."""
    need("busybox")
    store = Store(tmp_path_factory.mktemp("tiny"))
    bases.build(store, "tiny")
    return store


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


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@contextlib.contextmanager
def docker_registry(folder: Path, extra: str = "", tls: str = "") -> Iterator[str]:
    """docker-registry on a loopback port, as HOST:PORT."""
    need("docker-registry")
    port = free_port()
    config = folder / "config.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {folder}/data}}}}\n"
        f'http:\n  addr: "127.0.0.1:{port}"\n{tls}{extra}'
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", config], stdout=log, stderr=log)
    try:
        wait_for(lambda: answers(port))
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """A registry in plain HTTP."""
    (tmp_path / "registry").mkdir()
    with docker_registry(tmp_path / "registry") as host:
        yield host


@pytest.fixture
def locked_registry(tmp_path: Path) -> Iterator[str]:
    """A registry that asks for user and password."""
    import bcrypt

    folder = tmp_path / "locked"
    folder.mkdir()
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode().replace("$2b$", "$2y$")
    (folder / "htpasswd").write_text(f"{USER}:{hashed}\n")
    auth = f"auth:\n  htpasswd:\n    realm: class\n    path: {folder}/htpasswd\n"
    with docker_registry(folder, auth) as host:
        yield host


@pytest.fixture
def tls_registry(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A registry with a certificate of a private authority, and the authority's file."""
    folder = tmp_path / "tls"
    folder.mkdir()

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=class authority")
    openssl("req", *key, "-keyout", "key", "-out", "csr", "-subj", "/CN=registry")
    (folder / "ext").write_text("subjectAltName=IP:127.0.0.1\n")
    openssl(
        "x509", "-req", "-in", "csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-out", "crt", "-extfile", "ext"
    )
    tls = f"  tls:\n    certificate: {folder}/crt\n    key: {folder}/key\n"
    with docker_registry(folder, tls=tls) as host:
        yield host, folder / "ca.crt"


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
        words = ["nsenter", "-t", str(self.process.pid), "-n", *argv]
        return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False, **options)  # type: ignore[call-overload,no-any-return]

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture(scope="session")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    """A dockerd of these tests, with its own images."""
    need("root", "docker", "cgroup")
    folder = Path("/tmp") / f"vmm-dockerd-{os.getpid()}"
    folder.mkdir()
    daemon = None
    try:
        daemon = Docker(folder)
        yield daemon
    finally:
        if daemon is not None:
            daemon.stop()
        subprocess.run(["rm", "-rf", folder], check=False)
