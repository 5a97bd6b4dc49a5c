"""Tables and documents as the commands print them: columns, JSON, or a line of the user's own form."""

from __future__ import annotations

import json
import re
import sys

from host.errors import Usage
from host.typing import Any

SCHEMA_VERSION = 1
_PLACE = re.compile(r"\{\{\s*(json\s+)?\.?([A-Za-z_][\w.]*)?\s*\}\}|\{([a-z_][\w.]*)\}")


def columns(header: list[str], rows: list[list[str]]) -> str:
    """Left-aligned columns, two blanks apart; nothing is cut off, so that scripts can read it."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    form = "  ".join(f"{{:<{width}}}" for width in widths)
    return "\n".join(form.format(*row).rstrip() for row in [header, *rows])


def document(**fields: Any) -> str:
    """One JSON document with its `schema_version`."""
    return json.dumps({"schema_version": SCHEMA_VERSION, **fields}, indent=2)


def formed(form: str, fields: dict[str, Any]) -> str:
    r"""The user's own form: `{name} {state}` or docker's `{{.Name}}`, `{{json .}}`; `\t` and `\n` are read.

    Raises Usage for a field that is not there.
    """

    def place(match: re.Match[str]) -> str:
        value = _field(match[2] or match[3] or "", fields)
        if match[1] or isinstance(value, dict | list):
            return json.dumps(value)
        return "" if value is None else str(value)

    return _PLACE.sub(place, form.replace("\\t", "\t").replace("\\n", "\n"))


def _field(path: str, fields: dict[str, Any]) -> Any:
    value: Any = fields
    for word in filter(None, path.split(".")):
        key = word if isinstance(value, dict) and word in value else snake(word)
        if isinstance(value, dict) and key not in value:
            key = key.removesuffix("s")  # docker's {{.Names}}
        if not isinstance(value, dict) or key not in value:
            known = ", ".join(sorted(fields))
            raise Usage("no field", repr(path), hint=f"there are {known}")
        value = value[key]
    return value


def snake(word: str) -> str:
    """docker's `CreatedAt` as we name it: `created_at`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", word).lower()


def ago(seconds: float) -> str:
    """A length of time for people: `5 s`, `3 min`, `2 h`, `4 d`."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"


def say(text: str) -> None:
    """Print a block of text, unless it is empty."""
    if text:
        sys.stdout.write(text + "\n")
