"""docs/commands.md tells of every command, and its lab is a lab."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cli import main as front
from instances import labs

PAGE = Path(__file__).parents[2] / "docs" / "commands.md"


@pytest.mark.parametrize("command", [name for group in front.GROUPS.values() for name in group])
def test_every_command_is_on_the_page(command: str) -> None:
    assert re.search(rf"\b{command}\b", PAGE.read_text())


def test_the_lab_of_the_page_is_one(tmp_path: Path) -> None:
    text = re.search(r"```yaml\n(# lab\.yaml\n.*?)```", PAGE.read_text(), re.DOTALL)
    assert text is not None
    (tmp_path / "lab.yaml").write_text(text[1])
    assert [member.name for member in labs.read(tmp_path / "lab.yaml").members] == ["db", "web"]
