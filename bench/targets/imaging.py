"""Image commands as one types them: a rebuild of which only the last COPY is new, a pull of what is new."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.core import workload
from bench.core.target import Cell, Parts
from bench.targets import command, rootfs
from bench.targets.whole import vmm_argv
from host import commands
from host.edges import Edges
from host.errors import DeadlinePassed, Failure

_BASE_BYTES, _CHANGED_BYTES = 8 << 20, 1 << 20
_UP_S = 20.0
_DOCKERFILE = """FROM {base}
LABEL what=bench
COPY base /srv/base
RUN cp /srv/base /srv/copy
ENV HOME=/srv
WORKDIR /srv/app
COPY app ./
CMD ["cat", "main"]
"""
_MOVED = re.compile(r"(\d+) bytes moved, (\d+) bytes already here")


def rebuild(build: Sequence[str], base: str, cell: Cell, env: Mapping[str, str]) -> Parts:
    """`rebuild_s` of the whole command, after one line of the last COPY has changed; all else is cached."""
    with rootfs.scratch_folder() as folder:
        context = _context(folder / "context", base)
        argv = [*build, str(context)]
        commands.run(argv, "cannot build", timeout_s=cell.deadline_s, env=dict(env))
        with (context / "app" / "main").open("a") as text:
            text.write(f"changed {time.time_ns()}\n")
        parts = command.timed(argv, cell, Edges(), env=env)
        took_ns = parts.edges_ns["t9"] - parts.edges_ns["t0"]
        return workload.with_values(parts, {"rebuild_s": took_ns / 1e9})


def _context(folder: Path, base: str) -> Path:
    """A context with the same content each time, so that every run finds the cache of the one before."""
    (folder / "app").mkdir(parents=True)
    (folder / "Dockerfile").write_text(_DOCKERFILE.format(base=base))
    (folder / "base").write_bytes(random.Random(1).randbytes(_BASE_BYTES))
    for number in range(20):
        (folder / "app" / f"part{number}").write_text(f"line of part {number}\n" * 100)
    (folder / "app" / "main").write_text("the first line\n")
    return folder


def pull(cell: Cell) -> Parts:
    """What `vmm image pull` of version 2 moves where version 1 is: `moved_bytes` over the changed layer's."""
    with rootfs.scratch_folder() as folder, _registry(folder) as host, _shelf(host, folder) as names:
        theirs = {**os.environ, "VMM_HOME": str(folder / "home")}
        _vmm(theirs, "image", "pull", "--plain-http", names[0])
        edges = Edges()
        edges.mark("t0")
        told = _vmm(theirs, "image", "pull", "--plain-http", names[1]).stderr
        edges.mark("t9")
        image = json.loads(_vmm(theirs, "image", "inspect", names[1]).stdout)["images"][0]
    layer = int(image["stack"][-1]["size_bytes"])
    found = _MOVED.search(told)
    if found is None:
        raise Failure("cannot read what was moved", why=told[-200:])
    moved = int(found[1])
    values = {"moved_bytes": moved, "here_bytes": int(found[2]), "changed_layer_bytes": layer}
    return Parts("ok", edges.since_ns(), {**values, "moved_ratio": moved / layer})


@contextmanager
def _shelf(host: str, folder: Path) -> Iterator[tuple[str, str]]:
    """Versions 1 and 2 of an image, pushed to the registry; they leave the bench's own store again."""
    names = (f"{host}/bench:1", f"{host}/bench:2")
    env = dict(os.environ)
    (folder / "context").mkdir()
    (folder / "context" / "base").write_bytes(random.Random(1).randbytes(_BASE_BYTES))
    try:
        for seed, name in enumerate(names, 2):
            (folder / "context" / "new").write_bytes(random.Random(seed).randbytes(_CHANGED_BYTES))
            (folder / "context" / "Dockerfile").write_text("FROM tiny\nCOPY base /\nCOPY new /\n")
            _vmm(env, "image", "build", "-q", "-t", name, str(folder / "context"))
            _vmm(env, "image", "push", "--plain-http", name)
        yield names
    finally:
        for name in names:
            with contextlib.suppress(Failure):
                _vmm(env, "image", "rm", name)


def _vmm(env: Mapping[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """One of our commands, as a process of its own."""
    done = subprocess.run(
        [*vmm_argv(), *words], env=dict(env), capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        raise Failure(f"vmm {' '.join(words[:2])} failed", why=done.stderr.strip()[-300:])
    return done


@contextmanager
def _registry(folder: Path) -> Iterator[str]:
    """Debian's docker-registry on a loopback port, as HOST:PORT; it ends with the context."""
    if shutil.which("docker-registry") is None:
        raise Failure(
            "cannot pull", why="docker-registry is not installed", hint="apt-get install docker-registry"
        )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    storage = f"{{filesystem: {{rootdirectory: {folder}/registry}}}}"
    (folder / "config.yml").write_text(
        f'version: 0.1\nlog: {{level: error}}\nstorage: {storage}\nhttp: {{addr: "127.0.0.1:{port}"}}\n'
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", folder / "config.yml"], stdout=log, stderr=log
        )
    try:
        _await(port)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def _await(port: int) -> None:
    until_s = time.monotonic() + _UP_S
    while time.monotonic() < until_s:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise DeadlinePassed("the registry did not come up", why=f"nothing answers on port {port}")
