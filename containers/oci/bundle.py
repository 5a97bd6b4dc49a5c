"""A bundle: config.json of the runtime-spec (1.0 to 1.2), read and refused where we could not keep its
words.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any, NamedTuple

from host.errors import BadData, Failure, Unsupported, Usage

Config = dict[str, Any]
OLDEST, NEWEST = "1.0.0", "1.2.1"
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)(?:[-+][0-9A-Za-z.+-]+)?")
_ID = re.compile(r"[a-zA-Z0-9_+.-]+")


class Bundle(NamedTuple):
    """The absolute path of a bundle and its configuration."""

    path: str
    config: Config

    @property
    def rootfs(self) -> str:
        """The absolute path of the container's root."""
        return os.path.normpath(os.path.join(self.path, self.config["root"]["path"]))

    def has_own(self, kind: str) -> bool:
        """Whether the bundle asks for a new namespace of a kind."""
        return any(
            one.get("type") == kind and not one.get("path") for one in self.part("linux", "namespaces") or ()
        )

    def has(self, kind: str) -> bool:
        """Whether the bundle asks for a namespace of a kind, new or joined."""
        return any(one.get("type") == kind for one in self.part("linux", "namespaces") or ())

    def part(self, *keys: str) -> Any:
        """A nested value, or an empty dict where one of the keys is not there or null."""
        return nested(self.config, *keys)


def nested(value: Any, *keys: str) -> Any:
    """The value under `keys`, or an empty dict."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return {} if value is None else value


def check_id(word: str) -> str:
    """The id, when it can be a directory's name; Usage otherwise."""
    if not _ID.fullmatch(word) or word in (".", ".."):
        raise Usage("cannot use the container id", repr(word), "letters, digits and _+-. only")
    return word


def load(path: str) -> Bundle:
    """Read DIR/config.json; BadData where it is none, Unsupported where its version is not ours to know."""
    where = os.path.abspath(path)
    file = os.path.join(where, "config.json")
    try:
        with open(file, "rb") as opened:
            config = json.load(opened)
    except OSError as error:
        raise Failure("cannot read the bundle", file, os.strerror(error.errno or 0)) from None
    except ValueError as error:
        raise BadData("cannot read the bundle", file, str(error)) from None
    bundle = Bundle(where, config)
    check(bundle)
    return bundle


def check(bundle: Bundle) -> None:
    """Refuse what no runtime could run; looks at the words and at the root directory only."""
    config = bundle.config
    _check_version(str(config.get("ociVersion", "")))
    if not bundle.part("root", "path"):
        raise BadData("cannot use the bundle", bundle.path, "root.path is missing")
    if not os.path.isdir(bundle.rootfs):
        raise BadData("cannot use the bundle", bundle.rootfs, "the root is not a directory")
    if config.get("linux") is None:
        raise Unsupported("cannot use the bundle", bundle.path, "it describes no Linux container")
    kinds = [one.get("type") for one in bundle.part("linux", "namespaces") or ()]
    if len(kinds) != len(set(kinds)):
        raise BadData("cannot use the bundle", bundle.path, "a namespace is listed twice")
    if bundle.part("hostname") and "uts" not in kinds:
        raise BadData("cannot use the bundle", bundle.path, "a host name needs a uts namespace")
    if "process" in config and config["process"] is not None:
        check_process(config["process"])


def check_process(process: Config) -> None:
    """Refuse a process without words or with a relative directory."""
    if not process.get("args"):
        raise BadData("cannot use the process", "args", "it is empty")
    if not str(process.get("cwd", "")).startswith("/"):
        raise BadData("cannot use the process", "cwd", f"{process.get('cwd')!r} is not an absolute path")
    seen = set()
    for limit in process.get("rlimits") or ():
        if limit["type"] in seen:
            raise BadData("cannot use the process", limit["type"], "the limit is listed twice")
        seen.add(limit["type"])


def _check_version(version: str) -> None:
    match = _VERSION.fullmatch(version)
    if not match:
        raise BadData("cannot use the bundle", "ociVersion", f"{version!r} is not a version")
    if match[1] != "1":
        raise Unsupported("cannot use the bundle", f"ociVersion {version}", f"{OLDEST} to {NEWEST} is known")
