"""Who we are to a registry: our own file after `vmm image login`, then docker's and podman's."""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from host import paths, records
from host.errors import BadData, NotFound


def of(host: str, home: Path | None = None) -> tuple[str, str] | None:
    """User and password for a registry (`HOST[:PORT]`), None where nobody logged in."""
    for path in _files(home or paths.home()):
        with contextlib.suppress(
            FileNotFoundError, PermissionError, BadData, binascii.Error, UnicodeDecodeError
        ):
            told = records.read(path).get("auths", {}).get(host, {}).get("auth", "")
            user, colon, password = base64.b64decode(told).decode().partition(":")
            if colon:
                return user, password
    return None


def _files(home: Path) -> Iterator[Path]:
    yield home / "auth.json"
    run = os.environ.get("XDG_RUNTIME_DIR")
    if run:
        yield Path(run, "containers", "auth.json")
    yield Path(os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker"), "config.json")


def keep(host: str, user: str, password: str, home: Path | None = None) -> Path:
    """Remember a login, readable for this user only; in docker's form (base64, which hides nothing)."""
    path = (home or paths.home()) / "auth.json"
    with records.lock(path.with_name(".auth.lock")):
        record = _read(path)
        auth = base64.b64encode(f"{user}:{password}".encode()).decode()
        record.setdefault("auths", {})[host] = {"auth": auth}
        records.write_bytes(path, json.dumps(record, indent=1).encode() + b"\n", mode=0o600)
    return path


def forget(host: str, home: Path | None = None) -> None:
    """Forget a login; NotFound where there was none."""
    path = (home or paths.home()) / "auth.json"
    with records.lock(path.with_name(".auth.lock")):
        record = _read(path)
        if record.get("auths", {}).pop(host, None) is None:
            raise NotFound("not logged in at", host)
        records.write_bytes(path, json.dumps(record, indent=1).encode() + b"\n", mode=0o600)


def _read(path: Path) -> records.Record:
    try:
        return records.read(path)
    except FileNotFoundError:
        return {"auths": {}}
