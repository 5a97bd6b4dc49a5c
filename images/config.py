"""What an image says of the process that it is for: the `config` of an OCI image configuration."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType

from host.errors import BadData
from host.typing import Any, NamedTuple

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


def host_architecture() -> str:
    """This machine's architecture in OCI's words (GOARCH): `amd64`, `arm64`..."""
    machine = os.uname().machine
    return _MACHINES.get(machine, machine)


class Healthcheck(NamedTuple):
    """A HEALTHCHECK: `test` is `("CMD", ...)`, `("CMD-SHELL", line)` or `("NONE",)`; zero is the default."""

    test: tuple[str, ...]
    interval_ns: int = 0
    timeout_ns: int = 0
    start_period_ns: int = 0
    retries: int = 0


class ImageConfig(NamedTuple):
    """The execution part of an image configuration.

    `env` holds `NAME=value` words in order, `exposed` words like `80/tcp`. `shell`, `onbuild` and
    `healthcheck` are docker's additions, which builds need. Source: OCI image-spec v1.1, config.md.
    """

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    user: str = ""
    workdir: str = "/"
    stop_signal: str = ""
    volumes: tuple[str, ...] = ()
    exposed: tuple[str, ...] = ()
    labels: Mapping[str, str] = MappingProxyType({})
    healthcheck: Healthcheck | None = None
    architecture: str = host_architecture()
    shell: tuple[str, ...] = ()
    onbuild: tuple[str, ...] = ()


def from_oci(document: Mapping[str, Any]) -> ImageConfig:
    """The ImageConfig in an OCI image configuration; BadData when a field is not of its type."""
    told = document.get("config") or {}
    if not isinstance(told, dict):
        raise BadData("cannot read the image configuration", why="`config` is not an object")
    _check_told(document)
    return ImageConfig(
        entrypoint=_words(told, "Entrypoint"),
        cmd=_words(told, "Cmd"),
        env=_words(told, "Env"),
        user=_text(told, "User"),
        workdir=_text(told, "WorkingDir") or "/",
        stop_signal=_text(told, "StopSignal"),
        volumes=tuple(sorted(_table(told, "Volumes"))),
        exposed=tuple(sorted(_table(told, "ExposedPorts"))),
        labels={str(k): str(v) for k, v in _table(told, "Labels").items()},
        healthcheck=_healthcheck(_table(told, "Healthcheck")),
        architecture=_text(document, "architecture") or host_architecture(),
        shell=_words(told, "Shell"),
        onbuild=_words(told, "OnBuild"),
    )


def _check_told(document: Mapping[str, Any]) -> None:
    """BadData unless what is told of the image's making is of the types that its readers take."""
    for key in ("created", "author"):
        _text(document, key)
    history = document.get("history") or []
    if not isinstance(history, list) or not all(isinstance(step, dict) for step in history):
        raise BadData("cannot read the image configuration", why="`history` is no list of objects")


def to_oci(config: ImageConfig) -> dict[str, Any]:
    """The `config` object of an OCI image configuration; fields that say nothing are left out."""
    told: dict[str, Any] = {
        "User": config.user,
        "ExposedPorts": {port: {} for port in config.exposed},
        "Env": list(config.env),
        "Entrypoint": list(config.entrypoint),
        "Cmd": list(config.cmd),
        "Volumes": {path: {} for path in config.volumes},
        "WorkingDir": "" if config.workdir == "/" else config.workdir,
        "Labels": dict(config.labels),
        "StopSignal": config.stop_signal,
        "Healthcheck": _healthcheck_to_oci(config.healthcheck),
        "Shell": list(config.shell),
        "OnBuild": list(config.onbuild),
    }
    return {key: value for key, value in told.items() if value}


def _healthcheck(told: Mapping[str, Any]) -> Healthcheck | None:
    if not told.get("Test"):
        return None
    times = (_number(told, key) for key in ("Interval", "Timeout", "StartPeriod", "Retries"))
    return Healthcheck(_words(told, "Test"), *times)


def _healthcheck_to_oci(check: Healthcheck | None) -> dict[str, Any]:
    if check is None:
        return {}
    numbers = {
        "Interval": check.interval_ns,
        "Timeout": check.timeout_ns,
        "StartPeriod": check.start_period_ns,
        "Retries": check.retries,
    }
    return {"Test": list(check.test), **{key: value for key, value in numbers.items() if value}}


def _words(told: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = told.get(key) or ()
    if not isinstance(value, list | tuple) or not all(isinstance(word, str) for word in value):
        raise BadData("cannot read the image configuration", why=f"`{key}` is not a list of words")
    return tuple(value)


def _number(told: Mapping[str, Any], key: str) -> int:
    value = told.get(key) or 0
    if not isinstance(value, int):
        raise BadData("cannot read the image configuration", why=f"`{key}` is no whole number")
    return value


def _text(told: Mapping[str, Any], key: str) -> str:
    value = told.get(key) or ""
    if not isinstance(value, str):
        raise BadData("cannot read the image configuration", why=f"`{key}` is not a text")
    return value


def _table(told: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = told.get(key) or {}
    if not isinstance(value, dict):
        raise BadData("cannot read the image configuration", why=f"`{key}` is not an object")
    return value
