"""What tests of images share: stores, registries, a dockerd."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from capabilities import need
from image_servers import PASSWORD, USER, Docker, docker_registry

from images import bases
from images.store import Store


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
