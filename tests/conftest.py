"""What every test gets: a home of its own, a short run directory, and nobody's environment."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from host import paths


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty VMM_HOME; its run directory goes with it."""
    where = tmp_path / "home"
    monkeypatch.setenv("VMM_HOME", str(where))
    yield where
    shutil.rmtree(paths.run_dir(where), ignore_errors=True)
    # the frozen memory of templates lies apart from the home, in memory
    shutil.rmtree(Path("/dev/shm", f"vmm-{paths.run_dir(where).name}"), ignore_errors=True)
