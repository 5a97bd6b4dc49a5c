"""report.pdf: the page printed by Chromium, the one program that lays it out as a reader's browser would."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PRINT_S = 120


def browser() -> str:
    """The browser that prints; raises FileNotFoundError where there is none."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        raise FileNotFoundError(f"none of {', '.join(BROWSERS)} is installed")
    return found


def write(page: str, path: Path) -> Path:
    """Print a page's HTML, whole or not at all; raises OSError, and subprocess.SubprocessError where the
    browser fails.
    """
    with tempfile.TemporaryDirectory(prefix="vmm-print-") as scratch:
        source, draft = Path(scratch, "index.html"), Path(scratch, "report.pdf")
        source.write_text(page, encoding="utf-8")
        env = {**os.environ, "TMPDIR": scratch}  # what it leaves when it is killed goes with it
        subprocess.run(
            _argv(scratch, source, draft), check=True, timeout=PRINT_S, capture_output=True, env=env
        )
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        shutil.copyfile(draft, beside)
    return beside.replace(path)


def _argv(scratch: str, source: Path, out: Path) -> list[str]:
    # Chromium refuses to run as root inside its sandbox; the page holds no script but ours and loads nothing.
    as_root = ["--no-sandbox"] if os.geteuid() == 0 else []
    return [
        browser(), "--headless", *as_root, "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        f"--user-data-dir={scratch}/profile", "--no-pdf-header-footer", f"--print-to-pdf={out}",
        source.as_uri(),
    ]  # fmt: skip
