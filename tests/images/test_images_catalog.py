"""A user's list of cloud images: read strictly, imported by name with its checksum."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from capabilities import need
from commandline import CommandLine

from host.errors import BadData, NotFound
from images import catalog

DIGEST = "sha256:" + "0" * 64
GOOD = f"{{url: https://host/disk, checksum: '{DIGEST}'}}"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_names_in_their_order_with_what_they_say(tmp_path: Path) -> None:
    other = "{url: 'http://h/d', checksum: 'http://h/SUMS', raw: true}"
    text = f"version: 1\nimages:\n  b: {GOOD}\n  a/b: {other}\n"
    b, ab = catalog.load(write(tmp_path / "c", text))
    assert (b.name, b.checksum, b.raw) == ("b", DIGEST, False)
    assert (ab.wish().source, ab.wish().name, ab.wish().raw) == ("http://h/d", "a/b", True)
    with pytest.raises(NotFound, match="it has b, a/b"):
        catalog.find([b, ab], "c")


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("images: {}", "version: 1"),
        ("version: 2\nimages: {}", "version: 1"),
        ("version: 1", "images"),
        ("version: 1\nimages: {}\nimage: {}", "unknown key 'image'"),
        (f"version: 1\nimages: {{UPPER: {GOOD}}}", "images.UPPER"),
        ("version: 1\nimages: {a: {url: https://h/d}}", "images.a.checksum"),
        ("version: 1\nimages: {a: {url: https://h/d, checksum: sha256:12}}", "images.a.checksum"),
        (
            "version: 1\nimages: {a: {url: 'https://h/d', checksum: 'md5:" + "0" * 32 + "'}}",
            "images.a.checksum",
        ),
        (f"version: 1\nimages: {{a: {{url: file:///etc/passwd, checksum: '{DIGEST}'}}}}", "images.a.url"),
        (f"version: 1\nimages: {{a: {{url: 5, checksum: '{DIGEST}'}}}}", "images.a.url"),
        ("version: 1\nimages: {a: {urll: x}}", "unknown key 'urll'"),
        ("version: 1\nimages: {a: [1]}", "images.a"),
        ("version: 1\nimages: [", "expected"),
    ],
)
def test_a_catalogue_that_is_wrong_is_refused_with_the_place(tmp_path: Path, text: str, where: str) -> None:
    with pytest.raises(BadData) as caught:
        catalog.load(write(tmp_path / "c", text))
    assert where in str(caught.value)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address that serves it."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_by_name_from_the_home_s_own_catalogue(home: Path, served: tuple[Path, str]) -> None:
    need("qemu")
    folder, address = served
    disk = folder / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "4M"], check=True)
    (folder / "SUMS").write_text(f"{hashlib.sha256(disk.read_bytes()).hexdigest()}  disk.qcow2\n")
    home.mkdir()
    entry = (
        f"{{url: {address}/disk.qcow2, checksum: {address}/SUMS, description: small, architecture: arm64}}"
    )
    write(
        home / "catalog.yaml",
        f"version: 1\nimages:\n  small: {entry}\n  wrong: {GOOD.replace('https://host', address)}\n",
    )
    vmm = CommandLine(home)
    assert "small" in vmm.ok("image", "catalog")
    assert json.loads(vmm.ok("image", "catalog", "--json"))["images"][0]["description"] == "small"
    vmm.ok("image", "catalog", "-q", "small")
    told = json.loads(vmm.ok("image", "inspect", "small"))["images"][0]
    assert told["architecture"] == "arm64"
    assert vmm.run("image", "catalog", "-q", "wrong").returncode == 1
    assert [one["name"] for one in json.loads(vmm.ok("image", "ls", "--json"))["images"]] == ["small:latest"]
