"""What every test gets: a home of its own, a short run directory, and nobody's environment."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import leaks
import pytest

# As `vmm` itself does: an ordinary user's PATH does not look where Debian keeps mke2fs and nft.
os.environ["PATH"] += ":/usr/sbin:/sbin"
# A shell without job control has what it starts in the background ignore ctrl-c, and all that this starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


_rerun: list[pytest.TestReport] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep why a test was run once more: what passes the second time has a cause, too."""
    if report.outcome == "rerun":  # type: ignore[comparison-overlap]
        _rerun.append(report)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say it at the end."""
    for report in _rerun:
        terminalreporter.section(f"run again: {report.nodeid}")
        terminalreporter.write_line("\n".join(report.longreprtext.splitlines()[-40:]))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty VMM_HOME; its run directory goes with it."""
    where = tmp_path / "home"
    monkeypatch.setenv("VMM_HOME", str(where))
    yield where
    leaks.forget(where)
