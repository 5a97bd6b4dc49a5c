"""Images as an ordinary user: tiny, builds, archives, without root and without anything of root's."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from capabilities import ORDINARY_USER, need

from host import paths

ROOT = Path(__file__).parents[2]
DOCKERFILE = """FROM tiny
WORKDIR /w
RUN mkdir d && echo old >d/old && chown 33:34 d/old && rm -r /mnt
RUN rm -r d && mkdir d && echo new >d/new
COPY --chown=5:6 f /f
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory of the user's, short and reachable."""
    need("root", "user", "userns", "overlay", "busybox")
    path = Path("/tmp") / f"vmm-user-{os.getpid()}"
    subprocess.run(["install", "-d", "-o", ORDINARY_USER, path], check=True)
    yield path
    subprocess.run(["rm", "-rf", path], check=True)


@pytest.fixture
def vmm(folder: Path) -> Iterator[object]:
    """Run vmm as the user; the system's Python, since root's own may be closed to others."""
    python = "/usr/bin/python3"
    if not os.path.exists(python) or sys.version_info[:2] != (3, 11):
        pytest.skip("needs the system's Python to be the one that the tests run on")
    env = {
        "HOME": str(folder),
        "VMM_HOME": str(folder / "home"),
        "VMM_NETWORK": "none",
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{ROOT}:{sysconfig.get_path('purelib')}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "VMM_GUEST": str(paths.guest_helper()),
    }

    def run(*words: str, status: int = 0) -> str:
        argv = ["setpriv", f"--reuid={ORDINARY_USER}", "--regid=" + ORDINARY_USER, "--clear-groups"]
        done = subprocess.run(
            [*argv, python, "-m", "cli.main", *words],
            capture_output=True,
            text=True,
            env=env,
            cwd=folder,
            check=False,
        )
        assert done.returncode == status, done.stderr
        return done.stdout

    return run  # type: ignore[return-value]


def test_build_run_save_and_load(folder: Path, vmm: object) -> None:
    (folder / "Dockerfile").write_text(DOCKERFILE)
    (folder / "f").write_text("copied")
    assert callable(vmm)
    vmm("image", "build", "-q", "-t", "mine:1", ".")
    assert vmm("run", "--rm", "mine:1", "sh", "-c", "ls d; cat /f; ls -d /mnt 2>/dev/null || echo gone") == (
        "new\ncopiedgone\n"
    )
    vmm("image", "save", "-o", "mine.tar", "mine:1")
    vmm("image", "rm", "mine:1")
    assert vmm("image", "load", "-q", "-i", "mine.tar").startswith("mine:1 sha256:")
    assert "sound" in vmm("image", "verify")


def test_layers_name_the_owners_that_the_container_saw(folder: Path, vmm: object) -> None:
    (folder / "Dockerfile").write_text(
        "FROM tiny\nRUN echo x >/x; mkdir /d; echo y >/d/y; chown 33:34 /d/y\n"
    )
    assert callable(vmm)
    vmm("image", "build", "-q", "-t", "mine:1", ".")
    vmm("image", "export", "-o", "mine.tar", "mine:1")
    argv = ["tar", "--numeric-owner", "-tvf", str(folder / "mine.tar"), "x", "d/y"]
    told = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert [line.split()[1] for line in told.stdout.splitlines()] == ["33/34", "0/0"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_debian_is_made_without_root(folder: Path, vmm: object) -> None:
    need("mmdebstrap")
    assert callable(vmm)
    vmm("image", "build", "--base", "debian")
    assert "VERSION_CODENAME" in vmm("run", "--rm", "debian", "cat", "/etc/os-release")
    vmm("image", "save", "--format", "oci", "-o", "debian.tar", "debian")
    with tarfile.open(folder / "debian.tar") as archive:
        largest = max(archive.getmembers(), key=lambda member: member.size)
        with tarfile.open(fileobj=archive.extractfile(largest)) as layer:
            shadow = next(member for member in layer if member.name.endswith("etc/shadow"))
    assert (shadow.uid, shadow.gid) == (0, 42), "the layer names Debian's own owners, whoever made it"
