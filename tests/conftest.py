"""What every test gets: a home of its own, a short run directory, and nobody's environment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import leaks
import pytest

# As `vmm` itself does: an ordinary user's PATH does not look where Debian keeps mke2fs and nft.
os.environ["PATH"] += ":/usr/sbin:/sbin"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty VMM_HOME; its run directory goes with it."""
    where = tmp_path / "home"
    monkeypatch.setenv("VMM_HOME", str(where))
    yield where
    leaks.forget(where)
