"""The course: every command in docs/course is run as written, lesson by lesson, in a home of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from capabilities import need

COURSE = Path(__file__).parents[2] / "docs" / "course"
LESSONS = sorted(COURSE.glob("[1-9]-*.md"))


def commands(lesson: Path) -> list[str]:
    """The lines after `$` in the console blocks of a lesson."""
    blocks = re.findall(r"^```console\n(.*?)^```", lesson.read_text(encoding="utf-8"), re.M | re.S)
    return [
        line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")
    ]


def run(words: str, folder: Path, home: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "VMM_HOME": str(home), "LC_ALL": "C"}
    return subprocess.run(
        ["sh", "-c", words], cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip


def test_there_are_four_lessons_with_commands_and_questions() -> None:
    assert len(LESSONS) == 4
    for lesson in LESSONS:
        text = lesson.read_text(encoding="utf-8")
        assert len(commands(lesson)) >= 5
        assert "## Predict" in text
        assert "## Measured here" in text
        assert len(re.findall(r"^\d\. ", text[text.index("## Questions") :], re.M)) >= 3
        assert lesson.name in (COURSE / "README.md").read_text(encoding="utf-8")


def test_every_command_is_in_a_console_block() -> None:
    """A command that no test runs must not look like one."""
    for lesson in LESSONS:
        text = lesson.read_text(encoding="utf-8")
        assert text.count("```") == 2 * len(re.findall(r"^```console$", text, re.M))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.machine
@pytest.mark.parametrize("lesson", LESSONS, ids=lambda one: one.stem)
def test_every_command_of_a_lesson_works(lesson: Path, tmp_path: Path, home: Path) -> None:
    need("root", "overlay", "qemu", "kernel", "busybox", "guest-helper")
    try:
        for words in commands(lesson):
            ran = run(words, tmp_path, home)
            assert ran.returncode == 0, f"$ {words}\n{ran.stdout}{ran.stderr}"
            assert "Traceback" not in ran.stderr
    finally:
        run("vmm rm -f --all; true", tmp_path, home)
