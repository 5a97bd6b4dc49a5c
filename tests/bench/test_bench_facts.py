"""What a result says of the software that took it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.core import facts

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize("where", ["detached", "loose", "packed"])
def test_the_commit_is_read_from_a_checkout(tmp_path: Path, where: str) -> None:
    (tmp_path / "HEAD").write_text(f"{COMMIT}\n" if where == "detached" else "ref: refs/heads/main\n")
    if where == "loose":
        (tmp_path / "refs" / "heads").mkdir(parents=True)
        (tmp_path / "refs" / "heads" / "main").write_text(f"{COMMIT}\n")
    if where == "packed":
        (tmp_path / "packed-refs").write_text(f"# pack-refs with: peeled\n{COMMIT} refs/heads/main\n")
    assert facts._commit(tmp_path) == COMMIT[:8]


def test_without_a_checkout_there_is_no_commit(tmp_path: Path) -> None:
    assert facts._commit(tmp_path) == ""
