"""cloud-init NoCloud seeds: an ISO labelled `cidata` that tells a machine who it is.

Source: cloud-init documentation, "NoCloud", "User-data formats", "Networking config Version 2".
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from host import records
from host.errors import BadData, from_os_error

_CLOUD_CONFIG = "#cloud-config"
# What cloud-init takes by its first line, besides #cloud-config.
_OTHER_FORMATS = (
    "#!", "#include", "#include-once", "#cloud-boothook", "#part-handler", "#cloud-config-archive",
    "#cloud-config-jsonp", "Content-Type:", "MIME-Version:",
)  # fmt: skip
_JINJA = "## template: jinja"


@dataclass(frozen=True, slots=True)
class Seed:
    """What a seed holds: user data as the user wrote it; `meta` has an `instance-id`; `network` is version 2.

    Empty parts are left out of the ISO.
    """

    user_data: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    network: Mapping[str, Any] | str = ""
    vendor_data: str = ""


def write(path: Path, seed: Seed) -> Path:
    """Write the seed's ISO to `path`, whole or not at all.

    BadData, with the line, for what cloud-init would ignore.
    """
    files = render(seed)
    try:
        records.write_bytes(path, _iso(files), mode=0o600)
    except OSError as error:
        raise from_os_error("cannot write the seed", error, str(path)) from error
    return path


def render(seed: Seed) -> dict[str, bytes]:
    """The files of a seed by their names, checked."""
    check_user_data(seed.user_data, "user-data")
    check_user_data(seed.vendor_data, "vendor-data")
    if not seed.meta.get("instance-id"):
        raise BadData("cannot make the seed", "meta-data", "it has no instance-id")
    files = {"meta-data": _dump(seed.meta), "user-data": seed.user_data or f"{_CLOUD_CONFIG}\n{{}}\n"}
    if seed.vendor_data:
        files["vendor-data"] = seed.vendor_data
    if seed.network:
        text = seed.network if isinstance(seed.network, str) else _dump(seed.network)
        check_network(text)
        files["network-config"] = text
    return {name: text.encode() for name, text in files.items()}


def read(path: Path) -> dict[str, bytes]:
    """The files on a seed's ISO, by their names."""
    import pycdlib

    iso, files = pycdlib.PyCdlib(), {}
    iso.open(str(path))
    try:
        for child in iso.list_children(joliet_path="/"):
            name = child.file_identifier().decode("utf-16-be")
            if child.is_file():
                content = io.BytesIO()
                iso.get_file_from_iso_fp(content, joliet_path=f"/{name}")
                files[name] = content.getvalue()
    finally:
        iso.close()
    return files


def check_user_data(text: str, name: str) -> None:
    """BadData, with line and reason, for user or vendor data that cloud-init would not obey."""
    if not text:
        return
    first, _, rest = text.partition("\n")
    if first.startswith(_JINJA):
        return _check_first(rest.partition("\n")[0], name, 2)
    _check_first(first, name, 1)
    if first.rstrip() == _CLOUD_CONFIG:
        document = load_yaml(text, name)
        if document is not None and not isinstance(document, dict):
            raise BadData(
                "refused the seed", f"{name}, line 2", "#cloud-config holds no mapping of keys to values"
            )


def _check_first(line: str, name: str, number: int) -> None:
    if line.rstrip() == _CLOUD_CONFIG or line.startswith(_OTHER_FORMATS):
        return
    where, hint = f"{name}, line {number}", f"the first line must be exactly {_CLOUD_CONFIG}"
    if line.strip().lower() == _CLOUD_CONFIG or line.strip("\ufeff #").lower() == "cloud-config":
        raise BadData("refused the seed", where, f"{line!r} is not quite {_CLOUD_CONFIG}", hint)
    raise BadData(
        "refused the seed", where, f"{_CLOUD_CONFIG} is missing, cloud-init would ignore all of it", hint
    )


def check_network(text: str, name: str = "network-config") -> None:
    """BadData, with the line, for a network configuration that is not of version 2."""
    document = load_yaml(text, name)
    if isinstance(document, dict) and isinstance(document.get("network"), dict):
        document = document["network"]
    if not isinstance(document, dict) or document.get("version") != 2:
        raise BadData("refused the seed", f"{name}, line 1", "no `version: 2`", "write version 2 (netplan)")
    kinds = {"ethernets", "bonds", "bridges", "vlans"}
    for key in document:
        if key not in kinds | {"version", "renderer"}:
            line = _line_of(text, str(key))
            raise BadData("refused the seed", f"{name}, line {line}", f"unknown key {key!r}")
        if key in kinds and not isinstance(document[key], dict):
            line = _line_of(text, str(key))
            raise BadData("refused the seed", f"{name}, line {line}", f"`{key}` is no mapping")


def _line_of(text: str, key: str) -> int:
    lines = text.splitlines()
    return next((n for n, line in enumerate(lines, 1) if line.strip().startswith((key, f'"{key}'))), 1)


def load_yaml(text: str, name: str) -> Any:
    """The YAML document in a text; BadData, with the line, where it is broken or has a key twice."""
    import yaml

    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        _refuse_twice(node, name)
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}, line {mark.line + 1}, column {mark.column + 1}" if mark else name
        raise BadData("refused the seed", where, str(error.problem or error.context)) from None
    except (yaml.YAMLError, ValueError) as error:
        raise BadData("refused the seed", name, str(error).replace("\n", " ")) from None


def _refuse_twice(node: Any, name: str) -> None:
    """YAML forbids a key twice in one mapping; the loader would silently take the last."""
    import yaml

    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen and key.value != "<<":
                    line = key.start_mark.line + 1
                    raise BadData(
                        "refused the seed", f"{name}, line {line}", f"the key {key.value!r} is there twice"
                    )
                seen.add(key.value)
            _refuse_twice(value, name)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_twice(value, name)


def _dump(document: Mapping[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(dict(document), sort_keys=False))


def _iso(files: Mapping[str, bytes]) -> bytes:
    import pycdlib

    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, vol_ident="cidata", joliet=3, rock_ridge="1.09")
    try:
        for name, content in files.items():
            short = name.upper().replace("-", "_")
            iso.add_fp(
                io.BytesIO(content), len(content), f"/{short}.;1", rr_name=name, joliet_path=f"/{name}"
            )
        out = io.BytesIO()
        iso.write_fp(out)
        return out.getvalue()
    finally:
        iso.close()
