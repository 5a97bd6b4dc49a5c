"""What every test gets: a home of its own, a short run directory, and nobody's environment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import leaks
import pytest


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty VMM_HOME; its run directory goes with it."""
    where = tmp_path / "home"
    monkeypatch.setenv("VMM_HOME", str(where))
    yield where
    leaks.forget(where)
